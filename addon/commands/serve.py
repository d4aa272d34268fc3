"""The `mirrortap serve` command: the proxy itself."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, get_args

import click

from addon import journal
from addon.commands.options import CONFIGS, DATA, MIRROR_TLS
from addon.doors.listening import ListenError, Mode, address
from addon.serve import Ports, serve
from addon.service import Service, StartError
from addon.upgrade import InheritanceError, Inherited

if TYPE_CHECKING:
    from pathlib import Path


class _Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT, [IPV6]:PORT, or :PORT for all interfaces."""

    name = "host:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        try:
            return address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("serve")
@CONFIGS
@click.option("--listen", type=_Address(), default="127.0.0.1:3128", show_default=True, help="Where builders connect.")
@click.option(
    "--mirror-listen",
    type=_Address(),
    help="Where clients that name mirrortap as a registry mirror connect.  [default: nowhere]",
)
@MIRROR_TLS
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default="regular",
    show_default=True,
    help="How clients come: by HTTPS_PROXY=http://..., redirected, or by HTTPS_PROXY=socks5://....",
)
@DATA
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that share the work; as many as there are cores.",
)
@click.option(
    "--log-format",
    type=click.Choice(get_args(journal.Format)),
    default="text",
    show_default=True,
    envvar="MIRRORTAP_LOG_FORMAT",
    show_envvar=True,
    help="How the log on stderr is written: for people, or one JSON object a line.",
)
@click.option("--offline", is_flag=True, help="Serve what is cached and connect to nothing.")
def serve_command(
    configs: tuple[Path, ...],
    listen: tuple[str, int],
    mirror_listen: tuple[str, int] | None,
    mirror_names: tuple[str, ...],
    mode: Mode,
    data: Path,
    workers: int,
    log_format: journal.Format,
    offline: bool,
) -> None:
    """Run the proxy until SIGTERM."""
    if mirror_names and not mirror_listen:
        raise click.UsageError("--mirror-tls is about the port of --mirror-listen: give that, too")
    journal.to_stderr(log_format)
    plain_mirror = mirror_listen is not None and not mirror_names and mode == "regular"
    inherited = None
    try:
        inherited = Inherited.take(os.environ)
        service = Service(
            configs,
            data,
            offline=offline,
            own_names=mirror_names,
            modes=(mode,),
            plain_mirror=plain_mirror,
            lock=inherited.lock if inherited else None,
        )
        serve(service, Ports(listen, mirror_listen, mirror_names, mode), workers, inherited)
    except (StartError, ListenError, InheritanceError) as error:
        click.echo(f"mirrortap: {error}", err=True)
        if inherited:
            inherited.failed(str(error))
        sys.exit(2)
