"""Names of the mirror door on the command line."""

from __future__ import annotations

import click

from ca.authority import AuthorityError, dns_name


class _DnsName(click.ParamType[str]):
    """A name that a certificate of the CA can be for."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return dns_name(value)
        except AuthorityError as error:
            self.fail(f"{error}; no certificate of this CA can be for an address", param, ctx)


mirror_tls = click.option(
    "--mirror-tls",
    "mirror_names",
    type=_DnsName(),
    multiple=True,
    metavar="NAME",
    help="A DNS name of the mirror, which then speaks https. May be given several times.",
)
