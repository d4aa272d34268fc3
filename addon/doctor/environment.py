"""Which proxy an environment names for a registry, as Go programs read it (net/http, ProxyFromEnvironment). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from addon.doctor.findings import failed, ok, skipped, warning
from addon.no_proxy import NoProxy
from addon.parent import ParentError, Parents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from addon.doctor.findings import Finding
    from addon.parent import Parent

STEP = "proxy variable"
_PROXY, _PAST = ("HTTPS_PROXY", "https_proxy"), ("NO_PROXY", "no_proxy")
# What people set instead: the one is for http URLs, Go programs do not know the other.
_OTHERS = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def variable(environment: Mapping[str, str]) -> str | None:
    """The name of the variable that counts for registries, which are asked over https; None: none is set."""
    return next((name for name in _PROXY if environment.get(name)), None)


def without(environment: Mapping[str, str]) -> str:
    """That there is no such variable, and what there is instead."""
    others = [name for name in _OTHERS if environment.get(name)]
    instead = f"; {', '.join(others)} is not read for https by programs written in Go" if others else ""
    return f"no HTTPS_PROXY{instead}"


def named(environment: Mapping[str, str], who: str, host: str, port: int) -> tuple[Parent | None, list[Finding]]:
    """The proxy by which `who`, in this environment, which has the variable, reaches the registry's host."""
    name = variable(environment)
    assert name
    if urlsplit(environment[name]).scheme.startswith("socks"):
        told = f"{name} of {who} names a SOCKS proxy: what goes through that is not looked at here"
        return None, [skipped(STEP, told)]
    past = next((each for each in _PAST if environment.get(each)), None)
    try:
        parents = Parents.from_environment({each: environment[each] for each in (name, past) if each})
    except ParentError:
        return None, [failed(STEP, "proxy-url", *_unusable(environment[name], name, who))]
    findings = _spellings(environment, who)
    parent = parents.way("https", host, port)
    if parent is None:
        return None, [*findings, _past(environment, past, who, host, port)]
    return parent, [ok(STEP, f"{name} of {who} names http://{parent.authority}"), *findings]


def _unusable(value: str, name: str, who: str) -> tuple[str, str]:
    """Nothing of the value is shown but its scheme: a password may be in it."""
    if value.strip().lower().startswith("https:"):
        told = (
            f"{name} of {who} says https://: the proxy itself is reached over http, what goes through it is encrypted"
        )
        return told, f"Write http:// in place of https://:\n  {name}=http://PROXY:3128"
    told = f"{name} of {who} is not http://[USER:PASSWORD@]HOST[:PORT]"
    return told, f"Write it so, with special characters of a password as %XX:\n  {name}=http://PROXY:3128"


def _past(environment: Mapping[str, str], past: str | None, who: str, host: str, port: int) -> Finding:
    entries = [entry.strip() for entry in environment.get(past or "", "").split(",")]
    covering = [entry for entry in entries if NoProxy(entry).holds(host, port)]
    if NoProxy().holds(host, port):
        return failed(
            STEP,
            "past-the-proxy",
            f"{host} is this machine itself, for which no program uses a proxy",
            "Give the registry another name, or look at one that is elsewhere:\n  mirrortap doctor IMAGE",
        )
    return failed(
        STEP,
        "past-the-proxy",
        f"{past} of {who} covers {host}: it goes past the proxy",
        f"Take {', '.join(covering)} out of {past}, and restart what has it in its environment.",
    )


def _spellings(environment: Mapping[str, str], who: str) -> list[Finding]:
    for upper, lower in _PROXY, _PAST:
        if environment.get(lower) and environment.get(upper) and environment[upper] != environment[lower]:
            told = f"{upper} and {lower} of {who} are not the same: Go programs read the first, others the second"
            return [warning(STEP, "two-spellings", told, f"Set both to the same value, or only {upper}.")]
    return []
