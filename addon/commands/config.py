"""The `mirrortap config` commands: what the configuration comes to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from addon import welcome
from addon.commands.config_check import check
from addon.commands.options import CONFIGS
from addon.config import description
from addon.config.load import load
from addon.config.model import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from addon.config.model import Config


@click.group()
def config() -> None:
    """Look into configuration files, of whichever format, without serving anything."""


@config.command("show")
@CONFIGS
@click.option("--json", "as_json", is_flag=True, help="For programs; the keys stay the same.")
def show(configs: tuple[Path, ...], as_json: bool) -> None:
    """Show what all the files come to together, and the file and line that each part is from."""
    try:
        found = load(configs)
    except ConfigError as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    told = description.describe(found)
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(_text(told, found)))


def _text(told: dict[str, Any], found: Config) -> Iterator[str]:
    yield f"Configuration: {', '.join(told['sources']) or 'built in'}"
    yield from (f"  WARNING {warning}" for warning in told["warnings"])
    yield ""
    for rule in told["rules"]:
        yield from _rule(rule)
        yield ""
    for host in told["hosts"]:
        yield f"{host['host']}, where something leads there"
        yield from _reached(host["tls"])
        yield ""
    yield f"{welcome.unnamed(found)}: {', '.join(told['built-in'])}"
    yield welcome.others(found)
    if told["settings"]:
        yield ""
        yield "[mirrortap], where it is not as by default:"
        for setting in told["settings"]:
            value, default = json.dumps(setting["value"]), json.dumps(setting["default"])
            yield f"  {setting['key']} = {value}  (default {default}){_at(setting['place'])}"


def _rule(rule: dict[str, Any]) -> Iterator[str]:
    yield f"{rule['pattern']}{_at(rule['place'])}"
    for number, endpoint in enumerate(rule["endpoints"], 1):
        yield f"  {number}. {endpoint['role']} {endpoint['url']}{_at(endpoint['place'])}"
        yield f"       asked for {_asked_for(endpoint['capabilities'])}{', told ?ns=' if endpoint['ns'] else ''}"
        if endpoint["replaces"]:
            yield f"       this path stands for {endpoint['replaces']}"
        yield from _reached(endpoint["tls"])
        if endpoint["headers"]:
            yield f"       headers: {', '.join(dict.fromkeys(endpoint['headers']))} (values not shown)"
        if endpoint["dial-timeout"]:
            yield f"       connected to within {endpoint['dial-timeout']}"
        if endpoint["credential"]:
            yield f"       logs in with {endpoint['credential']}, {endpoint['credential-use']}"
    match rule["origin"]:
        case "blocked":
            yield "  blocked: nothing of it is served"
        case "offline":
            yield "  offline, from the cache alone"
        case "never":
            yield "  the origin is never asked"
        case "moved":
            yield "  the origin is asked there, not at the address of its name"
    if rule["tag-ttl"] != "0s":
        yield f"  tags are believed for {rule['tag-ttl']}"
    if not rule["prefetch"]:
        yield "  layers wait until they are asked for"
    if rule["access"] == "open":
        yield "  whoever may use the proxy may read what is cached of it"
    if rule["redirect"] == "public":
        yield "  clients are sent on to the mirror door for what is public and cached, over plain http"


def _asked_for(capabilities: list[str]) -> str:
    """In people's words."""
    kinds = {"resolve": "tags", "pull": "content by digest", "referrers": "referrers"}
    return ", ".join(word for key, word in kinds.items() if key in capabilities) or "no pull"


def _reached(tls: dict[str, Any]) -> Iterator[str]:
    if not tls["verify"]:
        yield "       certificate NOT verified"
    if tls["unverified-networks"]:
        yield f"       certificate NOT verified in {', '.join(tls['unverified-networks'])}"
    if tls["ca"]:
        yield f"       trusted besides the system's CAs: {', '.join(tls['ca'])}"
    for pair in tls["client"]:
        yield f"       shows the certificate {pair['certificate']} (key {pair['key']})"


def _at(place: dict[str, Any] | None) -> str:
    if place is None:
        return "  [built in]"
    return f"  [{place['file']}{':' + str(place['line']) if place['line'] else ''}]"


config.add_command(check)
