"""What somebody should see to, in words with the remedy. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.counts.facts import Warned
from addon.journal import size
from addon.status.words import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from addon.counts.facts import CacheFacts, CaFacts, EndpointFacts, QuotaFacts, Share

# Seconds before its end that a certificate which is not renewed by itself is news.
_ENDING = 30 * 86400.0
# Seconds for which it is told that a client broke off TLS.
_LATELY = 3600.0


def warnings(
    share: Share, cache: CacheFacts, ca: CaFacts, told: Sequence[str], quota_floor: int, now: float
) -> list[Warned]:
    """`told`: what the configuration and the CA say themselves; `quota_floor`: requests left below which few are."""
    return [
        *_configuration(share),
        *(_split(each) for each in told),
        *_endpoints(share.endpoints, now),
        *_quotas(share.quotas, quota_floor, now),
        *_cache(share, cache),
        *_certificates(ca, now),
        *_distrusting(share, now),
    ]


def _configuration(share: Share) -> Iterator[Warned]:
    if share.refused:
        yield Warned(
            f"the configuration is refused, and the one before stays in use: {share.refused}",
            "mend the file: it is read again as soon as it changes",
        )


def _split(told: str) -> Warned:
    """Warnings of old have their remedy behind a semicolon."""
    what, _, remedy = told.rpartition("; ")
    return Warned(what or remedy, remedy if what else "")


def _endpoints(endpoints: Sequence[EndpointFacts], now: float) -> Iterator[Warned]:
    for each in endpoints:
        if each.state != "down":
            continue
        others = [other for other in endpoints if other.registry == each.registry and other != each]
        kind = "the origin" if each.origin else "a mirror"
        what = f"{each.endpoint}, {kind} of {each.registry}, is asked last: {each.reason}"
        again = f"it is asked again at {moment(each.until, now)} UTC"
        if others and all(other.state == "down" for other in others):
            remedy = f"no endpoint of {each.registry} answers: only what is cached is served; look at network and DNS"
        elif each.origin:
            remedy = f"look whether this machine reaches it, and whether it has an outage; {again}"
        else:
            remedy = f"look at that mirror, or take it out of the configuration; {again}"
        yield Warned(what, remedy)


def _quotas(quotas: Sequence[QuotaFacts], floor: int, now: float) -> Iterator[Warned]:
    for each in quotas:
        until = each.at + each.window
        if each.remaining < floor and until > now:
            yield Warned(
                f"{each.endpoint} lets {each.credential} ask for {each.remaining} more manifests until"
                f" {moment(until, now)} UTC",
                "give the proxy a credential of its own there, or a mirror (docs/credentials.md, docs/mirrors.md)",
            )


def _cache(share: Share, cache: CacheFacts) -> Iterator[Warned]:
    if not share.writable:
        yield Warned(
            f"the cache cannot be written ({cache.folder}); images are served past it",
            "make room on that disk, or look at the folder's rights",
        )
    elif cache.free < cache.floor:
        yield Warned(
            f"the disk of {cache.folder} has {size(cache.free)} free, less than min-free ({size(cache.floor)})",
            "make room: what is not pinned is evicted already",
        )
    if cache.limit and cache.pinned > cache.limit:
        yield Warned(
            f"what is pinned has {size(cache.pinned)}, more than cache-size ({size(cache.limit)})",
            "mirrortap cache pins lists it; unpin some, or raise cache-size",
        )


def _certificates(ca: CaFacts, now: float) -> Iterator[Warned]:
    for which, certificate, remedy in (
        ("root", ca.root, "make a new one and hand it out in time: mirrortap ca rotate (docs/ca.md)"),
        ("intermediate", ca.intermediate, "it is renewed by itself where the root's key is; mirrortap ca show tells"),
    ):
        left = certificate.ends - now
        if left <= 0:
            yield Warned(f"the CA's {which} certificate has ended: builders refuse every connection", remedy)
        elif left < _ENDING:
            yield Warned(f"the CA's {which} certificate ends in {left / 86400:.0f} days", remedy)


def _distrusting(share: Share, now: float) -> Iterator[Warned]:
    lately = [(client, where) for client, where, at in share.tallied.distrusting if now - at < _LATELY]
    if lately:
        shown = ", ".join(f"{client} ({where})" for client, where in lately[-3:])
        more = f" and {len(lately) - 3} more" if len(lately) > 3 else ""
        yield Warned(
            f"broke off TLS in the last hour: {shown}{more}",
            "these builders do not trust the CA, it seems: install it there (see Set up a builder)",
        )
