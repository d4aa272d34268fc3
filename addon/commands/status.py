"""`mirrortap status`: what the running proxy says of itself, in a terminal."""

from __future__ import annotations

import base64
import http.client
import os
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from addon import __version__, running
from addon.admission.rules import place
from addon.commands.options import DATA
from addon.status import document, terminal

if TYPE_CHECKING:
    from pathlib import Path

    from addon.running import Running

# Of all interfaces: itself is then where it is asked.
_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PATIENCE = 10.0  # seconds
_USER = "MIRRORTAP_USER"


class _Unanswered(Exception):
    """What is wrong, and what to do."""


@click.command("status")
@DATA
@click.option("--json", "as_json", is_flag=True, help="The whole document of /status.json.")
def status(data: Path, as_json: bool) -> None:
    """Say what the running proxy does: its status page, in a terminal.

    Where proxy-users wants a login, the variable MIRRORTAP_USER has it (USER:PASSWORD).
    """
    found = running.find(data)
    try:
        if found is None:
            raise _Unanswered(
                f"no proxy runs with {data}; start it with mirrortap serve, or name its folder with --data"
            )
        told = _asked(found)
        if as_json:
            click.echo(told, nl=False)
            return
        try:
            facts = document.read(told)
        except ValueError:
            raise _Unanswered(
                f"the running proxy is mirrortap {found.version}, whose answer mirrortap {__version__} cannot read:"
                " restart it, or use --json"
            ) from None
    except _Unanswered as why:
        click.echo(f"mirrortap: {why}", err=True)
        sys.exit(2)
    if sys.stdout.isatty():
        console = Console()
        console.print(terminal.drawn(facts, console.width))
    else:
        click.echo(terminal.plain(facts))


def _asked(found: Running) -> bytes:
    """The document. Raises _Unanswered."""
    host, port = found.proxy
    where = place(_NEAR.get(host, host), port)
    connection = http.client.HTTPConnection(_NEAR.get(host, host), port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/status.json", headers=_login())
        answer = connection.getresponse()
        told = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise _Unanswered(
            f"the proxy (pid {found.pid}) does not answer at {where}: {error}; its log may say why"
        ) from None
    finally:
        connection.close()
    if answer.status == 401:
        wrong = "does not know the user or password in" if _USER in os.environ else "wants a login; put one into"
        raise _Unanswered(f"the proxy at {where} {wrong} {_USER}=USER:PASSWORD (proxy-users)")
    if answer.status != 200:
        raise _Unanswered(f"the proxy at {where} answers {answer.status} {told[:200].decode(errors='replace').strip()}")
    return told


def _login() -> dict[str, str]:
    user = os.environ.get(_USER)
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
