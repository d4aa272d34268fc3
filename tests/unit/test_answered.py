"""What the log and the counts are told of one request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from addon.config.model import Rule, origin_of
from addon.counts import answered
from addon.reply import Reply, Request, Served

if TYPE_CHECKING:
    from addon.counts.facts import Answered

RULE = Rule("docker.io", origins=(origin_of("docker.io"),))
DIGEST = f"sha256:{'a' * 64}"


def told(target: str, *, method: str = "GET", how: str = "hit", agent: str = "containerd/2") -> Answered:
    request = Request(RULE, method, target, (("User-Agent", agent), ("Authorization", "Bearer secret")))
    reply = Reply(200, (), b"", Served(how, "mirror.test"))
    return answered.of(request, reply, at=1.0, client="10.0.0.7", sent=5, seconds=0.5, cut=None)


@pytest.mark.parametrize(
    ("target", "kind", "repository", "reference"),
    [
        ("/v2/library/app/manifests/1.0", "manifest", "library/app", "1.0"),
        (f"/v2/library/app/blobs/{DIGEST}", "blob", "library/app", DIGEST),
        (f"/v2/library/app/referrers/{DIGEST}?artifactType=x", "referrers", "library/app", DIGEST),
        ("/v2/library/app/tags/list?n=5", "other", "library/app", ""),
        ("/v2/", "other", "", ""),
        ("/v2/library/app/blobs/nonsense", "other", "", ""),
        ("//\x00<script>", "other", "", ""),
    ],
)
def test_what_a_request_is_about(target: str, kind: str, repository: str, reference: str) -> None:
    found = told(target)
    assert (found.kind, found.repository, found.reference) == (kind, repository, reference)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("hit", "hit"),
        ("stale", "stale"),
        ("redirected", "redirected"),
        ("miss from", "miss"),
        ("relayed from", "relayed"),
        ("passed on to", "relayed"),
        ("in place of", "relayed"),
        ("refused", "refused"),
    ],
)
def test_what_became_of_it(how: str, outcome: str) -> None:
    assert told("/v2/", how=how).outcome == outcome


def test_secrets_are_not_told() -> None:
    found = told("/v2/library/app/blobs/uploads/1?_state=secret")
    assert "secret" not in repr(found)
    assert found.path == "/v2/library/app/blobs/uploads/1"


def test_what_a_client_wrote_is_bounded_and_printable() -> None:
    found = told("/v2/" + "x" * 100_000, agent="evil\r\n\x1b[31m" + "y" * 10_000, method="Z" * 1000)
    assert len(found.path) < 600
    assert len(found.agent) < 200
    assert len(found.method) < 40
    assert found.agent.isprintable()
