"""dockerd: certs.d, for registries other than Docker Hub ("Verify repository client with certificates" in its docs)."""

from __future__ import annotations

from pathlib import PurePosixPath

from ca.trust import systemd
from ca.trust.errors import TrustError
from ca.trust.plan import Plan, Put, Wanted

CERTS = PurePosixPath("/etc/docker/certs.d")
_HUB = "docker.io"


def plan(wanted: Wanted) -> Plan:
    if _HUB in wanted.hosts:
        raise TrustError(
            "dockerd does not look into certs.d for Docker Hub; leave out --host docker.io, and do "
            "`mirrortap trust system`, or give dockerd SSL_CERT_FILE"
        )
    # Any *.crt there counts, so the registry's own ca.crt stays what it is.
    puts = tuple(Put(CERTS / host / "mirrortap.crt", wanted.pem, host) for host in wanted.hosts)
    drop_in = systemd.drop_in("docker", wanted.proxy)
    return Plan(
        puts=puts,
        next=(
            "dockerd now trusts the CA for these registries; it reads certs.d at every pull.\n"
            "NOT for Docker Hub, for which it does not look there. For that, one of:\n"
            "  mirrortap trust system     (then restart docker)\n"
            f"  Environment=SSL_CERT_FILE={puts[0].path if puts else ''}     (in the lines below)\n"
            f"dockerd also needs the proxy, if it has none yet:\n{drop_in}\n"
            "With BuildKit the docker command fetches tokens itself: give it both variables as well, or neither."
        ),
        undone=f"If you gave dockerd the proxy:\n{systemd.undo('docker')}",
    )
