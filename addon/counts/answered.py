"""What the log and the counts are told of one request. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon import oci, trace
from addon.counts.facts import Answered
from addon.oci import Blob, Manifest, OciError, Referrers

if TYPE_CHECKING:
    from addon.counts.facts import Kind, Outcome
    from addon.reply import Reply, Request

# Characters that are kept of what a client wrote.
_PATH, _AGENT, _METHOD = 512, 160, 16

_OUTCOMES: dict[str, Outcome] = {
    "hit": "hit",
    "stale": "stale",
    "redirected": "redirected",
    "miss from": "miss",
    "joined from": "joined",
    "refused": "refused",
}


def of(
    request: Request, reply: Reply, *, at: float, client: str, sent: int, seconds: float, cut: str | None
) -> Answered:
    """`at`: when it was asked; `sent`: bytes of the body; `cut`: why the transfer was broken off, if it was."""
    # Without its query, which may hold a secret (an upload's state, a token).
    path = request.target.partition("?")[0]
    kind, repository, reference = _about(request.method, request.target)
    return Answered(
        at=at,
        client=client,
        agent=_shown(request.header("user-agent") or "", _AGENT),
        method=_shown(request.method, _METHOD),
        registry=request.rule.registry,
        repository=repository,
        reference=reference,
        kind=kind,
        outcome=_OUTCOMES.get(reply.served.how, "relayed"),
        endpoint=reply.served.endpoint,
        status=reply.status,
        sent=sent,
        seconds=seconds,
        path=_shown(path, _PATH),
        age=reply.served.age,
        # Without a reason it is one all the same.
        cut="" if cut is None else cut or "broken off",
        trace=trace.trace_id(request),
    )


def _about(method: str, target: str) -> tuple[Kind, str, str]:
    try:
        match oci.understand(method, target):
            case Manifest(repository, reference):
                return "manifest", repository, str(reference)
            case Blob(repository, digest):
                return "blob", repository, str(digest)
            case Referrers(repository, digest):
                return "referrers", repository, str(digest)
    except OciError:
        return "other", "", ""
    return "other", oci.repository(target) or "", ""


def _shown(text: str, most: int) -> str:
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else f"{text[:most]}..."
