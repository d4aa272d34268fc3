"""What systemd is told of a service of Type=notify: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*states: str) -> None:
    """Such as "READY=1". Nothing happens where nobody wants to know; and nobody's not hearing it is in the way."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    # "@": a name of the abstract namespace (unix(7)).
    address = f"\0{place[1:]}" if place.startswith("@") else place
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.send("\n".join(states).encode())
