"""`mirrortap config check`: connects to every endpoint, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from addon.commands.options import CONFIGS
from addon.config.load import load
from addon.config.model import ConfigError
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.parent import ParentError, Parents
from addon.upstream import routing
from addon.upstream.probe import Probe

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Config, Endpoint, Rule
    from addon.upstream.findings import Finding

_Checked = list[tuple["Rule", list["Finding"]]]


@click.command("check")
@CONFIGS
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def check(configs: tuple[Path, ...], as_json: bool) -> None:
    """Connect to every mirror and origin, and say what is wrong and what to do.

    Ends with 0 when all is well, with 1 when something is wrong with an endpoint, with 2 when the configuration itself
    is wrong.
    """
    try:
        config, parents = load(configs), Parents.from_environment(os.environ)
    except (ConfigError, ParentError) as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    # What there is to say is in the findings.
    logging.getLogger("mirrortap").addHandler(logging.NullHandler())
    checked = asyncio.run(_look(config, parents))
    if as_json:
        click.echo(json.dumps({"rules": [_rule(rule, found) for rule, found in checked]}, indent=2))
    else:
        _tell(config, parents, checked)
    sys.exit(1 if any(_failed(found) for _, found in checked) else 0)


async def _look(config: Config, parents: Parents) -> _Checked:
    rules = sorted(config.rules.values(), key=lambda rule: rule.pattern)
    # Nothing of this comes to a proxy's clients: any name will do.
    probe = Probe(config, Via(Fingerprints(os.urandom(32))), parents)
    try:
        found = await probe.look(endpoint for rule in rules for endpoint in _asked(rule))
    finally:
        await probe.close()
    return [(rule, [found[endpoint] for endpoint in _asked(rule)]) for rule in rules]


def _asked(rule: Rule) -> tuple[Endpoint, ...]:
    return () if rule.blocked or rule.offline else routing.endpoints(rule)


def _failed(found: list[Finding]) -> list[Finding]:
    """Those that are of no use. An endpoint that is tried over https and http (insecure) need answer only one."""
    return [
        each
        for each in found
        if each.problems
        and all(other.problems for other in found if other.endpoint.name == each.endpoint.name and other is not each)
    ]


def _tell(config: Config, parents: Parents, checked: _Checked) -> None:
    for line in (*config.warnings, *parents.told):
        click.echo(line)
    for rule, found in checked:
        click.echo(f"{rule.pattern} ({rule.place})")
        if not _asked(rule):
            click.echo(f"  {'blocked' if rule.blocked else 'offline'}: there is nothing to try")
        failed = _failed(found)
        for each in found:
            _tell_of(each, failed=each in failed)
    problems = sum(len(each.problems) for _, found in checked for each in _failed(found))
    click.echo(f"{problems} {'problem' if problems == 1 else 'problems'}" if problems else "all is well")


def _tell_of(finding: Finding, *, failed: bool) -> None:
    endpoint = finding.endpoint
    answer = [f"HTTP {finding.status}"] if finding.status else ["no answer"] if finding.problems else []
    answer += [f"{finding.seconds * 1000:.0f} ms"] if finding.seconds is not None else []
    mark = "WRONG" if failed else "ok   " if not finding.problems and finding.status else "-    "
    origin = " (origin)" if endpoint.is_origin else ""
    click.echo(f"  {mark} {endpoint.url}{endpoint.base}{origin}: {', '.join((*answer, *finding.notes))}")
    for problem in finding.problems:
        click.echo(f"          {problem.what}")
        click.echo(f"          -> {problem.remedy}")
    if failed or not finding.problems:
        for i, certificate in enumerate(finding.chain):
            click.echo(f"          certificate {i + 1}: {certificate}")


def _rule(rule: Rule, found: list[Finding]) -> dict[str, Any]:
    failed = _failed(found)
    return {
        "registry": rule.pattern,
        "place": str(rule.place),
        "asked": bool(_asked(rule)),
        "endpoints": [_endpoint(each, failed=each in failed) for each in found],
    }


def _endpoint(finding: Finding, *, failed: bool) -> dict[str, Any]:
    endpoint = finding.endpoint
    return {
        "name": endpoint.name,
        "url": f"{endpoint.url}{endpoint.base}",
        "place": str(endpoint.place),
        "origin": endpoint.is_origin,
        "ok": not failed,
        "status": finding.status,
        "seconds": None if finding.seconds is None else round(finding.seconds, 3),
        "notes": finding.notes,
        "problems": [{"what": problem.what, "remedy": problem.remedy} for problem in finding.problems],
        "certificates": [
            {
                "subject": each.subject,
                "issuer": each.issuer,
                "not_before": each.not_before.isoformat(),
                "not_after": each.not_after.isoformat(),
                "names": list(each.names),
            }
            for each in finding.chain
        ],
    }
