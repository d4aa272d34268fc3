"""The `mirrortap` command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from addon import __version__
from addon.commands.ca import ca
from addon.commands.cache import cache
from addon.commands.config import config
from addon.commands.trust import trust
from addon.doors.listening import ListenError
from addon.serve import serve
from addon.service import Service, StartError


class _Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT, [IPV6]:PORT, or :PORT for all interfaces."""

    name = "host:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*)):([0-9]{1,5})", value)
        if not match or int(match[3]) > 65535:
            self.fail(f"{value!r} is not HOST:PORT, like 127.0.0.1:3128 or [::1]:3128", param, ctx)
        return match[1] or match[2], int(match[3])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """An HTTPS proxy that serves container image pulls from mirrors and a cache."""


@main.command("serve")
@click.option(
    "--config",
    "configs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Mirrors and registries: a mirrortap.toml or buildkitd.toml, a daemon.json, a certs.d folder or a"
    " registries.conf. May be given several times.",
)
@click.option("--listen", type=_Address(), default="127.0.0.1:3128", show_default=True, help="Where builders connect.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the CA and the cache.  [default: XDG data home]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that share the work; as many as there are cores.",
)
@click.option("--offline", is_flag=True, help="Serve what is cached and connect to nothing.")
def serve_command(
    configs: tuple[Path, ...], listen: tuple[str, int], data: Path | None, workers: int, offline: bool
) -> None:
    """Run the proxy until SIGTERM."""
    try:
        serve(Service(configs, data, offline=offline), *listen, workers)
    except (StartError, ListenError) as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)


main.add_command(ca)
main.add_command(cache)
main.add_command(config)
main.add_command(trust)

if __name__ == "__main__":
    main()
