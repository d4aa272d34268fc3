"""What the answers mean that a builder gets through the door, and what to do about them. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from addon.doctor.findings import failed, ok

if TYPE_CHECKING:
    from addon.cache.reference import Reference
    from addon.doctor.door import Answer
    from addon.doctor.findings import Finding

CONNECT, PULL = "CONNECT", "tag"
_CHECK = "On the proxy's machine, see what is wrong with each:\n  mirrortap config check --config FILE"


@dataclass(frozen=True)
class Problem:
    """An error in the distribution-spec's form, with the endpoints that mirrortap tried and why each failed."""

    message: str
    attempts: tuple[tuple[str, str], ...] = ()


def problem(answer: Answer) -> Problem:
    """Of an answer that is no success; its text as it is where it has another form."""
    try:
        told: Any = json.loads(answer.body)["errors"][0]
        message, tried = str(told["message"]), told.get("detail")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Problem(answer.text)
    tried = tried if isinstance(tried, list) else []
    attempts = [
        (_shown(each["endpoint"]), _shown(each["reason"]))
        for each in tried
        if isinstance(each, dict) and {"endpoint", "reason"} <= each.keys()
    ]
    return Problem(_shown(message, 600), tuple(attempts))


def connected(answer: Answer, where: str, url: str) -> Finding:
    """The proxy's answer to a CONNECT."""
    place = url.partition("://")[2]
    match answer.status:
        case 200:
            return ok(CONNECT, f"the proxy lets {where} through")
        case 407:
            wants = "does not know this user or password" if "does not know" in answer.text else "wants a login"
            remedy = f"Write a user of proxy-users into the variable, special characters as %XX:\n  HTTPS_PROXY=http://USER:PASSWORD@{place}"
            return failed(CONNECT, "proxy-login", f"the proxy {wants} (407)", remedy)
        case 429:
            remedy = f"Wait {answer.headers.get('Retry-After', '60')} s, then write the right user and password:\n  HTTPS_PROXY=http://USER:PASSWORD@{place}"
            return failed(
                CONNECT, "proxy-login", f"the proxy got too many wrong logins from here: {answer.text}", remedy
            )
        case 403:
            remedy = "If it is to be reached through the proxy, do that in its configuration (docs/exposure.md)."
            return failed(CONNECT, "refused", f"the proxy refuses {where} (403): {answer.text}", remedy)
        case 504:
            return _offline(CONNECT, answer.text)
        case 502 | 508:
            remedy = "On the proxy's machine, look at its environment and its DNS; its log says the same."
            return failed(
                CONNECT, "not-through", f"the proxy cannot reach {where} ({answer.status}): {answer.text}", remedy
            )
    remedy = f"See that {url} is the port of --listen, in --mode regular:\n  mirrortap serve --listen :3128"
    return failed(CONNECT, "not-through", f"CONNECT {where} got HTTP {answer.status}: {answer.text}", remedy)


def found(answer: Answer, image: Reference) -> Finding:
    """A tag that was asked for with HEAD, and is there."""
    status = answer.headers.get("Cache-Status", "")
    how = f" ({_how(status)})" if status else " (not said to come from mirrortap)"
    return ok(PULL, f"{image} is there{how}")


def refused(answer: Answer, image: Reference, user: str | None) -> Finding:
    """An answer to a question for the image that is no success. `user`: who has logged in there, None: nobody."""
    told = problem(answer)
    registry = image.registry
    match answer.status:
        case 401 if user is None:
            what = f"{registry} gives {image} to nobody who has not logged in, and there is no login for it here"
            return failed(PULL, "login", what, f"Log in, as the user who runs the builder:\n  docker login {registry}")
        case 401 | 403 if user is not None and not told.attempts:
            what = f"{registry} does not give {image} to {user} ({answer.status}): {told.message}"
            return failed(
                PULL, "denied", what, f"Have {user} let in there, or log in as another:\n  docker login {registry}"
            )
        case 403:
            what = f"{image} is refused (403): {told.message}"
            return failed(PULL, "denied", what, _listed(told) or "What the proxy says names the setting to change.")
        case 404:
            what = f"{image} is not there: {told.message}"
            return failed(
                PULL,
                "unknown-image",
                what,
                "See that name and tag are right, or name another:\n  mirrortap doctor IMAGE",
            )
        case 429:
            return _limited(answer, told, image)
        case 504:
            return _offline(PULL, told.message)
        case 502 if told.attempts:
            return _down(told, image)
    what = f"{image} got HTTP {answer.status}: {told.message}"
    return failed(
        PULL,
        "registry",
        what,
        "See the proxy's log, and whether the registry works:\n  mirrortap config check --config FILE",
    )


def _limited(answer: Answer, told: Problem, image: Reference) -> Finding:
    wait = answer.headers.get("Retry-After")
    again = f"; it may be asked again in {wait} s" if wait and wait.isdigit() else ""
    remedy = (
        f"Log in, for more:\n  docker login {image.registry}\n"
        "or have the proxy ask a mirror, or log in itself (docs/credentials.md), by its configuration:\n"
        f'  [registry."{image.registry}"]\n'
        '  mirrors = ["mirror.example"]\n'
        f'  [registry."{image.registry}".auth]\n'
        '  username = "USER"\n'
        '  password-file = "FILE"'
    )
    return failed(PULL, "quota", f"the registry's rate limit is used up{again}: {told.message}", remedy)


def _down(told: Problem, image: Reference) -> Finding:
    each = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in told.attempts)
    what = f"nobody can serve {image}: {each}"
    if all(reason.startswith("DNS") for _, reason in told.attempts):
        names = "".join(f"\n  getent hosts {_host(endpoint)}" for endpoint, _ in told.attempts)
        return failed(
            PULL, "dns", what, f"On the proxy's machine, correct the name in the configuration, or its DNS:{names}"
        )
    return failed(PULL, "mirror-down", what, f"{_listed(told)}\n{_CHECK}")


def _listed(told: Problem) -> str:
    """What to do about each endpoint."""
    return "\n".join(f"{endpoint}: {_mend(reason)}" for endpoint, reason in told.attempts)


def _mend(reason: str) -> str:
    if reason.startswith("DNS"):
        return "correct the name, or the DNS of the proxy's machine."
    if "refused" in reason:
        return "start it, correct its port, or take it out of mirrors."
    if reason.startswith("TLS"):
        return "name its CA under ca in its [registry] table."
    if re.match(r"HTTP (401|403)", reason):
        return "give the proxy a login for it (docs/credentials.md)."
    return "see whether it works, or take it out of mirrors."


def _offline(step: str, told: str) -> Finding:
    remedy = "Start the proxy without --offline once, and pull; or bring the image in (docs/cache.md)."
    return failed(step, "offline", f"the proxy is offline (504): {told}", remedy)


def _how(status: str) -> str:
    """Cache-Status (RFC 9211), in words."""
    if match := re.search(r'fwd=(?:miss|bypass)(?:; collapsed)?; detail="([^"]*)"', status):
        return f"Cache-Status: miss, from {_shown(match[1])}"
    stale = ", stale" if "stale" in status else ""
    return f"Cache-Status: hit{stale}" if "; hit" in status else f"Cache-Status: {_shown(status)}"


def _host(endpoint: str) -> str:
    return re.sub(r":[0-9]+$", "", endpoint.partition("/")[0])


def _shown(text: object, most: int = 200) -> str:
    return "".join(c for c in str(text) if c.isprintable())[:most]
