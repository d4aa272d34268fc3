"""containerd: hosts.toml (containerd, docs/hosts.md)."""

from __future__ import annotations

from pathlib import PurePosixPath

from ca.trust import systemd
from ca.trust.plan import Hides, Plan, Put, Wanted

_CERTS = PurePosixPath("/etc/containerd/certs.d")
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


def plan(wanted: Wanted) -> Plan:
    puts: list[Put] = []
    for host in wanted.hosts:
        folder = _CERTS / host
        # Without a hosts.toml, containerd reads the certificates in the folder; with one, only those it names.
        remedy = f"write {folder / 'hosts.toml'} yourself, with these and {folder / 'mirrortap.crt'} in its `ca`"
        hides = Hides(folder / "hosts.toml", (folder,), remedy)
        api = f"https://{_API_HOSTS.get(host, host)}"
        # Said twice: for the host that is asked first, and for `server`, asked after it. Paths are the folder's.
        table = f'[host."{api}"]\n  ca = ["mirrortap.crt"]\n'
        hosts_toml = f'server = "{api}"\nca = ["mirrortap.crt"]\n\n{table}'
        certificate = Put(folder / "mirrortap.crt", wanted.pem, host)
        puts += [certificate, Put(folder / "hosts.toml", hosts_toml.encode(), host, hides, table)]
    drop_in = systemd.drop_in("containerd", wanted.proxy)
    return Plan(
        puts=tuple(puts),
        next=(
            "containerd reads these files when its configuration says where they are. In /etc/containerd/config.toml:\n"
            f"  [plugins.'io.containerd.cri.v1.images'.registry]       # containerd 2\n    config_path = '{_CERTS}'\n"
            f'  [plugins."io.containerd.grpc.v1.cri".registry]         # containerd 1\n    config_path = "{_CERTS}"\n'
            f"ctr reads them with --hosts-dir {_CERTS}\n"
            "Who pulls needs the proxy: containerd, except with ctr 1, which pulls itself:\n"
            f"{drop_in}"
        ),
        undone=f"If you gave containerd the proxy:\n{systemd.undo('containerd')}",
    )
