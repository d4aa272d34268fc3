"""The operating system's own store, which all programs use that are not told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ca.trust.errors import TrustError
from ca.trust.plan import Plan, Put, Refresh, System, Wanted


@dataclass(frozen=True)
class _Store:
    ids: frozenset[str]
    anchors: str
    refresh: Refresh


def _store(ids: str, anchors: str, program: str, bundle: str, package: str, *removal: str) -> _Store:
    refresh = Refresh(tuple(program.split()), PurePosixPath(bundle), package, removal)
    return _Store(frozenset(ids.split()), anchors, refresh)


# Bundles by their real names: /etc/pki/tls/certs/ca-bundle.crt and the like are links to them.
_STORES = (
    _store(
        "debian ubuntu",
        "/usr/local/share/ca-certificates",
        "update-ca-certificates",
        "/etc/ssl/certs/ca-certificates.crt",
        "apt-get install ca-certificates",
        "--fresh",  # else the links to a certificate that is gone stay in /etc/ssl/certs
    ),
    _store(
        "alpine",
        "/usr/local/share/ca-certificates",
        "update-ca-certificates",
        "/etc/ssl/certs/ca-certificates.crt",
        "apk add ca-certificates",
    ),
    _store(
        "rhel fedora centos",
        "/etc/pki/ca-trust/source/anchors",
        "update-ca-trust extract",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "dnf install ca-certificates",
    ),
    _store(
        "suse opensuse",
        "/etc/pki/trust/anchors",
        "update-ca-certificates",
        "/var/lib/ca-certificates/ca-bundle.pem",
        "zypper install ca-certificates",
    ),
    _store(
        "arch",
        "/etc/ca-certificates/trust-source/anchors",
        "update-ca-trust extract",
        "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        "pacman -S ca-certificates-utils",
    ),
)

FOLDERS = frozenset(store.anchors for store in _STORES)
"""Those whose existence says which system it is, where os-release does not."""


def plan(wanted: Wanted) -> Plan:
    store = _of(wanted.system)
    anchors = PurePosixPath(store.anchors)
    # One certificate a file: update-ca-certificates wants it so.
    names = ("mirrortap.crt", *(f"mirrortap-{number}.crt" for number in range(2, 10)))
    pems = wanted.bundle.pems if wanted.bundle else ()
    return Plan(
        puts=tuple(Put(anchors / name, pem) for name, pem in zip(names, pems, strict=False)),
        complete=True,
        refresh=store.refresh,
        next=(
            "Every program that reads the system's store now trusts the CA, for any host.\n"
            "Daemons read the store once: restart those that pull (systemctl restart docker, ... containerd).\n"
            f"What pulls also needs the proxy: HTTPS_PROXY={wanted.proxy}\n"
            "Programs with a store of their own (Java, Firefox, Python's certifi) are not changed."
        ),
        undone="Daemons that are running keep the CA until they are restarted.",
    )


def _of(system: System) -> _Store:
    for name in system.ids:
        for store in _STORES:
            if name in store.ids:
                return store
    for store in _STORES:
        if store.anchors in system.folders:
            return store
    known = ", ".join(sorted(name for store in _STORES for name in store.ids))
    raise TrustError(
        f"no CA store of a known system is here (os-release says {' '.join(system.ids) or 'nothing'}; known: {known}); "
        "add the CA as that system's documentation says, or give programs SSL_CERT_FILE"
    )
