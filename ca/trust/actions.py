"""GitHub Actions: the steps of a job that make its runner use the proxy."""

from __future__ import annotations

from textwrap import indent

from ca.trust import buildkit, systemd
from ca.trust.plan import Plan, Wanted

_ANCHORS = "/usr/local/share/ca-certificates"
_CA = "/tmp/mirrortap.crt"
VARIABLE = "MIRRORTAP_CA"


def plan(wanted: Wanted) -> Plan:
    undone = (
        "Nothing was put anywhere: take the steps out of the workflow, and the variable out of the repository:\n"
        f"  gh variable delete {VARIABLE}\n"
        "On a self-hosted runner that keeps its disk:\n"
        f"  sudo rm {_ANCHORS}/mirrortap-*.crt {systemd.path('docker')}\n"
        "  sudo update-ca-certificates --fresh && sudo systemctl daemon-reload && sudo systemctl restart docker"
    )
    if wanted.remove:
        return Plan(undone=undone)
    return Plan(
        document=_steps(wanted.proxy),
        next=(
            "Put these first among the steps of each job that pulls. The CA is no secret; it goes into a variable of\n"
            "the repository or the organization:\n"
            f"  gh variable set {VARIABLE} < mirrortap.crt\n"
            "The runner must be able to reach the proxy: hosted runners see public addresses only.\n"
            "Leave out the second step where buildx is not used. Docker is restarted, which ends the job's service\n"
            "containers."
        ),
    )


def shell(proxy: str) -> str:
    """For sh, on a Debian or Ubuntu runner, with the CA in the environment."""
    # update-ca-certificates wants one certificate a file, and there are two while the CA is rotated.
    return (
        f"printf '%s\\n' \"${VARIABLE}\" > {_CA}\n"
        f'awk \'/BEGIN CERT/ {{ n++ }} n {{ print > "{_CA[:-4]}-" n ".crt" }}\' {_CA}\n'
        f"sudo cp {_CA[:-4]}-*.crt {_ANCHORS}/\n"
        "sudo update-ca-certificates\n"
        f"sudo mkdir -p {systemd.path('docker').rpartition('/')[0]}\n"
        f"printf '[Service]\\nEnvironment=HTTPS_PROXY={proxy}\\n' | sudo tee {systemd.path('docker')}\n"
        "sudo systemctl daemon-reload\n"
        "sudo systemctl restart docker\n"
    )


def _steps(proxy: str) -> str:
    # One registry's table is enough to have buildx copy the CA; SSL_CERT_FILE then makes it count for all.
    hosts = ("docker.io",)
    builder = indent(buildkit.registries(hosts, _CA), " " * 6)
    return f"""\
- name: Pull through mirrortap
  env:
    {VARIABLE}: ${{{{ vars.{VARIABLE} }}}}
  run: |
{indent(shell(proxy), " " * 4)}- name: Build through mirrortap
  uses: docker/setup-buildx-action@v4
  with:
    driver-opts: |
      env.HTTPS_PROXY={proxy}
      env.SSL_CERT_FILE={buildkit.in_builder(hosts, _CA.rpartition("/")[2])}
    buildkitd-config-inline: |
{builder}"""
