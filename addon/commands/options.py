"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

from addon.home import NoHome
from addon.running import default_data
from ca.authority import AuthorityError, dns_name


class _DnsName(click.ParamType[str]):
    """A name that a certificate of the CA can be for."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return dns_name(value)
        except AuthorityError as error:
            self.fail(f"{error}; no certificate of this CA can be for an address", param, ctx)


def _chosen(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    try:
        return value or default_data()
    except NoHome as error:
        raise click.UsageError(f"{error}: name the folder with --data, or set XDG_DATA_HOME") from None


MIRROR_TLS = click.option(
    "--mirror-tls",
    "mirror_names",
    type=_DnsName(),
    multiple=True,
    metavar="NAME",
    help="A DNS name of the mirror, which then speaks https. May be given several times.",
)
CONFIGS = click.option(
    "--config",
    "configs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Mirrors and registries: a mirrortap.toml or buildkitd.toml, a daemon.json, a certs.d folder or a"
    " registries.conf. May be given several times.",
)
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    callback=_chosen,
    help="Folder of the CA and the cache.  [default: XDG data home]",
)
