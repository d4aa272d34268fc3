"""`mirrortap doctor`: acts as a builder through the proxy's door, and says where that stops and what to do."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from addon.commands.options import CONFIGS, DATA
from addon.commands.references import ImageName
from addon.doctor import processes, report
from addon.doctor.builders import Machine
from addon.doctor.examination import Wish, examine
from addon.doctor.remedies import Kind
from addon.home import home_if_any
from addon.parent import Parent, ParentError, Parents

if TYPE_CHECKING:
    from addon.cache.reference import Reference

_IMAGE = "docker.io/library/alpine:latest"
# Columns: longer lines are hard to read, and shorter ones have no room for a word.
_WIDEST, _NARROWEST = 100, 20


class _Proxy(click.ParamType[Parent]):
    """http://[USER:PASSWORD@]HOST:PORT."""

    name = "url"

    def convert(self, value: str | Parent, param: click.Parameter | None, ctx: click.Context | None) -> Parent:
        if isinstance(value, Parent):
            return value
        try:
            (parent,) = Parents.from_environment({"HTTPS_PROXY": value}).all
        except (ParentError, ValueError):
            # Not repeated here: a password may be in it.
            self.fail("that is not the URL of a proxy, like http://mirrortap.corp:3128", param, ctx)
        return parent


@click.command("doctor")
@click.argument("image", type=ImageName(), default=_IMAGE)
@click.option("--proxy", type=_Proxy(), metavar="URL", help="The proxy to go by.  [default: HTTPS_PROXY]")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The CA that is trusted, as by SSL_CERT_FILE.  [default: what the builder trusts]",
)
@click.option(
    "--builder", "kind", type=click.Choice(get_args(Kind)), help="Look at this builder's settings on this machine."
)
@DATA
@CONFIGS
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def doctor(
    image: Reference,
    proxy: Parent | None,
    ca: Path | None,
    kind: Kind | None,
    data: Path,
    configs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Pull IMAGE a little, as a builder does, and say in words where that stops and what to do.

    Run it on the builder; on the proxy's machine it looks at the proxy's folder, too, and at what its --config names.
    Without IMAGE it is docker.io/library/alpine:latest. Ends with 0 when nothing has failed, with 1 when something has.
    """
    # What there is to say is in the findings.
    logging.getLogger("mirrortap").addHandler(logging.NullHandler())
    wish = Wish(image, data, proxy, ca, kind, configs)
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    findings = []
    for finding in examine(wish, _machine(kind)):
        findings.append(finding)
        if not as_json:
            click.echo(report.line(finding, width))
    if as_json:
        click.echo(json.dumps(report.as_json(findings), indent=2))
    else:
        for line in report.remedies(findings, width):
            click.echo(line)
    sys.exit(1 if any(finding.verdict == "failed" for finding in findings) else 0)


def _machine(kind: Kind | None) -> Machine:
    return Machine(
        os.environ,
        home_if_any(),
        processes=tuple(processes.running()) if kind else (),
        network=os.readlink("/proc/self/ns/net"),
    )
