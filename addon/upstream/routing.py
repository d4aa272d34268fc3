"""Which endpoints are asked, and what their answers mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

from addon import oci
from addon.oci import Blob, Digest, Manifest, OciError, Referrers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from addon.config.model import Endpoint, Rule
    from addon.upstream.reader import Reader
    from addon.upstream.response import Response


# Of a request that has come back to a proxy that sent it (RFC 5842, 7.2).
LOOP = 508


class Verdict(Enum):
    """What is done with an endpoint's answer."""

    FOUND = "found"  # this is the content
    REFUSED = "refused"  # the endpoint answers, but not with the content: to us, or at all
    FAILED = "failed"  # the endpoint cannot be relied on just now


@dataclass(frozen=True)
class Attempt:
    """An endpoint that did not bring the content, and why.

    `status` is None when there was no HTTP answer, `retry_after` is that header, and `wait` the seconds for which the
    answer asked not to come back.
    """

    endpoint: Endpoint
    reason: str
    status: int | None = None
    retry_after: str | None = None
    wait: float | None = None

    @property
    def verdict(self) -> Verdict:
        return Verdict.FAILED if self.status is None else judge(self.status)

    def __str__(self) -> str:
        return f"{self.endpoint.name}: {self.reason}"


def endpoints(rule: Rule) -> tuple[Endpoint, ...]:
    """Mirrors as configured, then the origin."""
    return rule.mirrors + rule.origins


def able(rule: Rule, asked: Manifest | Blob | Referrers) -> tuple[Endpoint, ...]:
    """The endpoints that may be asked for this, as configured: mirrors, then the origin."""
    match asked:
        case Referrers():
            # The origin's answer is the client's own.
            return tuple(mirror for mirror in rule.mirrors if "referrers" in mirror.can)
        case Manifest(reference=str()):
            return tuple(each for each in endpoints(rule) if "resolve" in each.can)
        case Manifest():
            first = [each for each in endpoints(rule) if "pull" in each.can]
            # One for tags alone has the manifests that an index by tag leads to, which look as if asked for by digest.
            return (*first, *(each for each in rule.mirrors if each.can & {"pull", "resolve"} == {"resolve"}))
        case Blob():
            return tuple(each for each in endpoints(rule) if each.can & {"pull", "resolve"})


def asked_for(
    rule: Rule, asked: Manifest | Blob | Referrers, reader: Reader, *, believed: bool
) -> tuple[Endpoint, ...]:
    """The endpoints that have something to say to the reader.

    A mirror that knows the proxy shows nothing of what others may read: it is asked when that is `believed` already.
    One that does not has for a client what it has for anybody.
    """
    return tuple(
        endpoint
        for endpoint in able(rule, asked)
        if endpoint.is_origin or (believed if endpoint.knows_us else not reader.personal)
    )


def all_tell(rule: Rule, asked: Manifest | Blob, reader: Reader) -> bool:
    """Whether what any of the endpoints gives the reader shows that the reader may have it."""
    return asked_for(rule, asked, reader, believed=True) == asked_for(rule, asked, reader, believed=False)


def judge(status: int) -> Verdict:
    """What an HTTP status of an endpoint means for a pull."""
    if status == 200:
        return Verdict.FOUND
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Verdict.REFUSED
    return Verdict.FAILED


def origin_refused(attempts: list[Attempt]) -> bool:
    """Whether the origin itself answered, and said no to a request without the client's credential."""
    return any(a.endpoint.is_origin and a.verdict is Verdict.REFUSED for a in attempts)


def refusing(attempts: list[Attempt]) -> Endpoint | None:
    """The origin that said no, where it can be asked as the client itself, too."""
    return next(
        (
            a.endpoint
            for a in attempts
            if a.endpoint.is_origin and not a.endpoint.apart and a.verdict is Verdict.REFUSED
        ),
        None,
    )


def same_place(endpoint: Endpoint, other: Endpoint) -> bool:
    """Whether they are the same but for how it is spoken to: with TLS, and for the case that it knows none, without."""
    return endpoint.authority == other.authority and replace(endpoint, url=other.url, tls=other.tls) == other


def turned(order: Sequence[Endpoint], serving: Endpoint, turn: int) -> list[Endpoint]:
    """Who is asked for a part, over the connection number `turn`, while `serving` sends another one.

    The mirrors in turn, from `serving` on; the origin only when it is the one that sends, and then alone: whoever has
    mirrors means to spare it.
    """
    if serving.is_origin:
        return [serving]
    places: list[list[Endpoint]] = []
    for endpoint in order:
        if endpoint.is_origin:
            continue
        if places and same_place(places[-1][0], endpoint):
            places[-1].append(endpoint)
        else:
            places.append([endpoint])
    # How the one that sends is spoken to is known.
    here = next((i for i, place in enumerate(places) if serving in place), None)
    if here is None:
        here = len(places)
        places.append([])
    places[here] = [serving]
    first = (here + turn) % len(places)
    return [endpoint for place in (*places[first:], *places[:first]) for endpoint in place]


def head_unknown(attempts: list[Attempt]) -> bool:
    """Whether an endpoint seems not to know HEAD, so that only a GET can tell."""
    return any(a.status in (400, 405, 501) for a in attempts)


def out_of_reach(attempts: list[Attempt]) -> bool:
    """Whether nobody who would know has answered, so that what was known before may still be held good."""
    return not origin_refused(attempts) and not settled(attempts)


def settled(attempts: list[Attempt]) -> bool:
    """Whether all that could answer have answered no, so that nothing older may be shown instead."""
    return bool(attempts) and all(a.verdict is Verdict.REFUSED for a in attempts)


def most_telling(
    asked: Manifest | Blob, registry: str, attempts: list[Attempt], others: Sequence[Attempt] = ()
) -> OciError:
    """The error a client gets when no endpoint brought the content. Only offline there is none to attempt.

    `others` are told as well, but count for nothing.
    """
    kind = "manifest" if isinstance(asked, Manifest) else "blob"
    mark = "@" if isinstance(asked.reference, Digest) else ":"
    what = f"{kind} {registry}/{asked.repository}{mark}{asked.reference}"
    if not attempts:
        but = "" if isinstance(asked.reference, Digest) else ", or only as a type that the client does not accept"
        return offline(f"{what} is not in the cache{but}", registry)
    tried = told([*others, *attempts])
    statuses = [a.status for a in attempts]
    reasons = "; ".join(map(str, [*others, *attempts]))
    if settled(attempts):
        if all(status == 404 for status in statuses):
            return OciError(404, f"{kind.upper()}_UNKNOWN", f"{what} is at no endpoint: {reasons}", detail=tried)
        # Not 401: its challenge would send the client's credential to a mirror.
        return OciError(403, "DENIED", f"{what} was refused: {reasons}", detail=tried)
    if 429 in statuses:
        waits = [a.retry_after for a in attempts if a.status == 429 and a.retry_after]
        headers = [("Retry-After", waits[-1])] if waits else []
        message = f"too many requests for {what}: {reasons}"
        return OciError(429, "TOOMANYREQUESTS", message, detail=tried, headers=headers)
    return OciError(502, "UNAVAILABLE", f"no endpoint could serve {what}: {reasons}", detail=tried)


def withheld(asked: Manifest | Blob, registry: str, attempts: list[Attempt]) -> OciError:
    """The error for what the origin refuses, for a client that cannot log in there."""
    refusals = [a for a in attempts if a.endpoint.is_origin and a.verdict is Verdict.REFUSED]
    if any(a.status in (401, 403) for a in refusals):
        mark = "@" if isinstance(asked.reference, Digest) else ":"
        what = f"{registry}/{asked.repository}{mark}{asked.reference}"
        return not_for_all(what, registry, map(str, attempts), told(attempts))
    # Its answer counts, whatever is wrong with the mirrors.
    return most_telling(asked, registry, refusals, [a for a in attempts if a not in refusals])


def told(attempts: Sequence[Attempt]) -> list[dict[str, str]]:
    """For programs."""
    return [{"endpoint": a.endpoint.name, "reason": a.reason} for a in attempts]


def not_for_all(what: str, registry: str, reasons: Iterable[str], detail: object = None) -> OciError:
    """The error for what needs a login at the origin, for a client that cannot log in there.

    Not 401: a challenge would have the client log in here. With 403 it goes on to the next endpoint that it knows.
    """
    return OciError(
        403,
        "DENIED",
        f"{what} is not for everybody ({'; '.join(reasons)}), and clients of this mirror cannot log in to {registry}:"
        f' give mirrortap a credential of its own ([registry."{registry}".auth]), or write access = "open" there for'
        " what is cached; or use mirrortap as a proxy, with the client's own login",
        detail=detail,
    )


def blocked(rule: Rule) -> OciError:
    """The error for all that is asked of a registry, or of a part of it, of which nothing is to be given."""
    return OciError(403, "DENIED", f"{rule.pattern} is blocked here (blocked = true in {rule.place})")


def unanswerable(asked: Manifest | Blob, rule: Rule) -> OciError:
    """The error for what no endpoint of the rule may be asked."""
    by = "digests" if isinstance(asked.reference, Digest) else "tags"
    return OciError(
        404,
        "MANIFEST_UNKNOWN" if isinstance(asked, Manifest) else "BLOB_UNKNOWN",
        f"{rule.registry}/{asked.repository}: none of its mirrors may be asked for {by} (capabilities), and its origin"
        f" is never asked ({rule.place})",
    )


def refused_to_all(response: Response, rule: Rule) -> OciError:
    """The error for what the origin of a part of a registry gives to nobody."""
    name = response.endpoint.name
    # Not 401, as above.
    message = f"{rule.pattern} is served from {name}, which does not let anybody in (HTTP {response.status})"
    return OciError(403, "DENIED", message)


def target(endpoint: Endpoint, target: str, registry: str | None = None) -> str:
    """The path, with its query, at which an origin has what a client asked for at `target`.

    `registry`: what is pulled from, where the origin is to be told.
    """
    repository = oci.repository(target)
    if not repository:
        return target
    target = f"{endpoint.path(repository)}/{below(repository, target)}"
    if registry and endpoint.told:
        target += f"{'&' if '?' in target else '?'}ns={quote(registry, safe='')}"
    return target


def below(repository: str, target: str) -> str:
    """What is asked of the repository that `target` is about, with its query."""
    if not target.startswith(f"/v2/{repository}/"):
        raise OciError(400, "NAME_INVALID", "a repository's name is written without . and .., empty parts and escapes")
    return target.removeprefix(f"/v2/{repository}/")


def offline(problem: str, registry: str) -> OciError:
    """The error for what only an endpoint could have answered."""
    why = '(--offline, offline = true or mode = "offline")'
    message = f"{problem}, and mirrortap is offline for {registry} {why}: it must be online for that"
    return OciError(504, "UNAVAILABLE", message)
