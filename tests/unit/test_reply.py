"""Headers of replies: what is the proxy's own, what passes through, and which part of content is sent."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ranges import check, headers, parts

from addon import reply
from addon.body import BodyCut
from addon.config.model import Rule
from addon.oci import Digest, OciError
from addon.reply import Reply, Request, Served

if TYPE_CHECKING:
    from addon.body import Body

RULE = Rule("docker.io", ())
CONTENT = bytes(range(100))
DIGEST = Digest.of(CONTENT)


def request(method: str = "GET", **headers: str) -> Request:
    return Request(RULE, method, "/v2/", tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def header(answer: Reply, name: str) -> str | None:
    return dict(answer.headers).get(name)


def test_request_headers_are_found_in_any_case() -> None:
    asked = Request(RULE, "GET", "/", (("ACCEPT", "a"), ("Accept", "b"), ("Range", "c")))
    assert asked.header("accept") == "a"
    assert asked.header_values("accept") == ["a", "b"]
    assert asked.header("if-range") is None


@pytest.mark.parametrize(
    ("served", "status"),
    [
        (Served("hit"), "mirrortap; hit"),
        (Served("stale", age=90), "mirrortap; hit; ttl=-90; detail=stale"),
        (Served("miss from", "m.io:5000/hub"), 'mirrortap; fwd=miss; detail="m.io:5000/hub"'),
        (Served("joined from", "m.io"), 'mirrortap; fwd=miss; collapsed; detail="m.io"'),
        (Served("relayed from", "docker.io"), 'mirrortap; fwd=bypass; detail="docker.io"'),
        (Served("passed on to", "docker.io"), None),
        (Served("refused"), None),
    ],
)
def test_cache_status(served: Served, status: str | None) -> None:
    """RFC 9211."""
    answer = reply.ours(200, [("A", "b")], b"", served, request())
    assert header(answer, "Cache-Status") == status
    # Which registry the answer is for (distribution-spec, "Registry Proxying").
    assert header(answer, "OCI-Namespace") == "docker.io"
    assert answer.headers[0] == ("A", "b")


def test_an_error_has_its_headers_and_its_length() -> None:
    problem = OciError(429, "TOOMANYREQUESTS", "slow down", headers=[("Retry-After", "17")])
    answer = reply.error(problem, request())
    assert isinstance(answer.body, bytes)
    assert answer.status == 429
    assert header(answer, "Retry-After") == "17"
    assert header(answer, "Content-Type") == "application/json"
    assert header(answer, "Content-Length") == str(len(answer.body))
    assert json.loads(answer.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    to_head = reply.error(problem, request("HEAD"))
    assert to_head.body == b""
    assert to_head.headers == answer.headers


def test_headers_of_one_connection_stay_there() -> None:
    headers = [
        ("Connection", "close, X-Private ,x-other"),
        ("x-private", "1"),
        ("X-OTHER", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic secret"),
        ("proxy-connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Authorization", "Bearer x"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    assert reply.end_to_end(headers) == [("Authorization", "Bearer x"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]


names = st.sampled_from(["Connection", "Via", "A", "a", "B", "Upgrade"])


@given(st.lists(st.tuples(names, st.sampled_from(["A", "b, via", "", "x"]))))
def test_what_passes_keeps_its_order_and_passes_again(headers: list[tuple[str, str]]) -> None:
    passed = reply.end_to_end(headers)
    remaining = iter(headers)
    assert all(each in remaining for each in passed)
    assert reply.end_to_end(passed) == passed


class Slice:
    """A body that knows which part of `content` it is."""

    def __init__(self, start: int, end: int | None, content: bytes = CONTENT) -> None:
        self.part = (start, end)
        self._content = content[start:end]

    async def read(self) -> bytes:
        piece, self._content = self._content, b""
        return piece

    async def close(self) -> None:
        pass


async def everything(body: Body | bytes) -> bytes:
    if isinstance(body, bytes):
        return body
    data = b""
    while piece := await body.read():
        data += piece
    return data


async def content(asked: Request, size: int | None = len(CONTENT)) -> tuple[Reply, tuple[int, int | None] | None]:
    async def body(start: int, end: int | None) -> Slice:
        return Slice(start, end)

    answer = await reply.content(asked, DIGEST, size, "text/plain", Served("hit"), body)
    assert header(answer, "Docker-Content-Digest") == (None if answer.status == 416 else str(DIGEST))
    return answer, answer.body.part if isinstance(answer.body, Slice) else None


async def test_all_of_the_content() -> None:
    answer, part = await content(request())
    assert (answer.status, part) == (200, (0, 100))
    assert header(answer, "Content-Length") == "100"
    assert header(answer, "Accept-Ranges") == "bytes"
    assert header(answer, "Content-Type") == "text/plain"


@pytest.mark.parametrize("size", [None, 100])
async def test_a_head_describes_all_of_it(size: int | None) -> None:
    answer, _ = await content(request("HEAD", Range="bytes=1-2"), size)
    assert (answer.status, answer.body) == (200, b"")
    assert header(answer, "Content-Length") == (None if size is None else "100")


async def test_a_part_of_the_content() -> None:
    answer, part = await content(request(Range="bytes=10-19"))
    assert (answer.status, part) == (206, (10, 20))
    assert header(answer, "Content-Range") == "bytes 10-19/100"
    assert header(answer, "Content-Length") == "10"
    etag = header(answer, "ETag")
    assert etag
    # If-Range (RFC 9110, 13.1.5): the part only of what the client already has a part of.
    assert (await content(request(Range="bytes=10-", If_Range=etag)))[1] == (10, 100)
    assert (await content(request(Range="bytes=10-", If_Range='"another"')))[1] == (0, 100)


async def test_a_part_that_is_not_there() -> None:
    answer, _ = await content(request(Range="bytes=100-"))
    assert (answer.status, answer.body) == (416, b"")
    assert header(answer, "Content-Range") == "bytes */100"
    assert header(answer, "Content-Length") == "0"


async def test_a_part_of_something_of_unknown_size() -> None:
    answer, part = await content(request(Range="bytes=10-19"), None)
    assert (answer.status, part) == (200, (0, None))
    assert header(answer, "Content-Length") is None


async def test_several_parts_of_the_content() -> None:
    answer, part = await content(request(Range="bytes=90-,0-9"))
    assert (answer.status, part) == (206, None)
    assert header(answer, "Content-Range") is None
    assert header(answer, "Accept-Ranges") == "bytes"
    media_type, data = header(answer, "Content-Type"), await everything(answer.body)
    assert media_type
    assert header(answer, "Content-Length") == str(len(data))
    assert parts(media_type, data) == [
        ("text/plain", "bytes 90-99/100", CONTENT[90:]),
        ("text/plain", "bytes 0-9/100", CONTENT[:10]),
    ]
    assert (await content(request(Range="bytes=90-,0-9", If_Range=header(answer, "ETag") or "")))[0].status == 206
    assert (await content(request(Range="bytes=90-,0-9", If_Range='"another"')))[1] == (0, 100)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=1-2"}, {"Range": "bytes=5-6,1-2"}])
@pytest.mark.parametrize("failure", [BodyCut("the download failed"), OSError("no such file")])
async def test_a_body_that_cannot_be_opened_is_not_answered_with_a_promise(
    headers: dict[str, str], failure: Exception
) -> None:
    async def body(start: int, end: int | None) -> Slice:
        raise failure

    with pytest.raises(type(failure), match=str(failure)):
        await reply.content(request(**headers), DIGEST, len(CONTENT), "text/plain", Served("hit"), body)


@given(st.binary(max_size=60).flatmap(lambda data: st.tuples(st.just(data), headers(len(data)))))
def test_an_answer_is_what_the_model_says(case: tuple[bytes, str | None]) -> None:
    data, asked = case

    async def body(start: int, end: int | None) -> Slice:
        return Slice(start, end, data)

    async def answer() -> None:
        headers = () if asked is None else (("Range", asked),)
        of = Request(RULE, "GET", "/v2/", headers)
        answer = await reply.content(of, Digest.of(data), len(data), "text/plain", Served("hit"), body)
        check(asked, data, "text/plain", answer.status, dict(answer.headers), await everything(answer.body))

    asyncio.run(answer())
