"""The lines that give a builder the proxy and its CA. Pure."""

from __future__ import annotations

from typing import Literal

from ca.trust import systemd

Kind = Literal["buildkit", "dockerd", "containerd", "podman"]
UNITS = {"dockerd": "docker", "containerd": "containerd", "buildkit": "buildkit"}
"""What systemd calls the daemons."""


def proxy(kind: Kind | None, url: str) -> str:
    """`url` has no login in it. None: whatever runs in this shell."""
    match kind:
        case "dockerd" | "containerd":
            return f"Set it for the daemon, which pulls:\n{systemd.drop_in(UNITS[kind], url)}"
        case "buildkit":
            return f"{_BUILDER}\n  mirrortap trust buildkit --proxy {url}"
        case _:
            return f"Set it for what pulls:\n  export HTTPS_PROXY={url}"


def certificates(kind: Kind | None, url: str) -> str:
    """How it comes to trust the CA of the proxy at `url`."""
    match kind:
        case "dockerd" | "containerd":
            lines = f"  mirrortap trust system --proxy {url}\n  systemctl restart {UNITS[kind]}"
            return f"Give this machine the proxy's CA, and restart the daemon, which reads CAs once:\n{lines}"
        case "buildkit":
            return f"{_BUILDER}\n  mirrortap trust buildkit --proxy {url}"
        case "podman":
            return f"Give podman, buildah and skopeo the proxy's CA:\n  mirrortap trust containers --proxy {url}"
        case None:
            lines = f"  curl -fsS -o ~/mirrortap.crt {url}/ca.crt\n  export SSL_CERT_FILE=~/mirrortap.crt"
            system = f"  mirrortap trust system --proxy {url}"
            return f"Give what pulls the proxy's CA:\n{lines}\nor the whole system:\n{system}"


_BUILDER = "Make the builder anew, with the proxy and its CA; this says how:"
