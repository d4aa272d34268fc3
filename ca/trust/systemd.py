"""The lines that give a daemon its environment. They are told, not run: a restart is for a person to decide."""

from __future__ import annotations

import shlex


def path(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.service.d/mirrortap.conf"


def drop_in(unit: str, proxy: str) -> str:
    where = path(unit)
    lines = ["[Service]", f"Environment=HTTPS_PROXY={proxy}"]
    return "\n".join(
        [
            f"  mkdir -p {where.rpartition('/')[0]}",
            f"  printf '%s\\n' {shlex.join(lines)} > {where}",
            f"  systemctl daemon-reload && systemctl restart {unit}",
        ]
    )


def undo(unit: str) -> str:
    return f"  rm {path(unit)}\n  systemctl daemon-reload && systemctl restart {unit}"
