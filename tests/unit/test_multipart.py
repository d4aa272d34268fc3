"""Several slices in one body, each opened when its turn comes, none left open."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ranges import parts

from addon.body import BodyCut
from addon.multipart import ByteRanges

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT = bytes(range(256)) * 2
SIZE = len(CONTENT)

slices = st.lists(
    st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).filter(lambda ends: ends[0] != ends[1]).map(sorted),
    min_size=2,
    max_size=5,
).map(lambda listed: [(start, end) for start, end in listed])


class Source:
    """Opens slices of CONTENT, in pieces of `piece` bytes, and knows which are open; `failures` by number of slice."""

    def __init__(self, piece: int = 100, failures: dict[int, Exception] | None = None) -> None:
        self.piece = piece
        self.failures = failures or {}
        self.opened: list[tuple[int, int | None]] = []
        self.open: list[Slice] = []

    async def __call__(self, start: int, end: int | None) -> Slice:
        await asyncio.sleep(0)
        self.opened.append((start, end))
        if failure := self.failures.get(len(self.opened)):
            raise failure
        self.open.append(Slice(self, CONTENT[start:end]))
        # The one before is still there: a download without a reader is given up.
        assert len(self.open) == min(len(self.opened), 2)
        return self.open[-1]


class Slice:
    def __init__(self, source: Source, content: bytes) -> None:
        self._source = source
        self._content = content
        self.failure: Exception | None = None

    async def read(self) -> bytes:
        if self.failure:
            raise self.failure
        piece = self._content[: self._source.piece]
        self._content = self._content[len(piece) :]
        return piece

    async def close(self) -> None:
        self._source.open.remove(self)  # ValueError the second time


def body_of(source: Source, *asked: tuple[int, int]) -> ByteRanges:
    return ByteRanges(asked, SIZE, "text/plain", source)


async def everything(body: ByteRanges) -> bytes:
    """To the end, which must stay the end."""
    data = b""
    while piece := await body.read():
        data += piece
    assert await body.read() == b""
    return data


@given(slices, st.integers(1, SIZE))
def test_every_part_comes_whole_and_says_which_it_is(asked: Sequence[tuple[int, int]], piece: int) -> None:
    source = Source(piece)
    body = body_of(source, *asked)
    data = asyncio.run(everything(body))
    assert len(data) == body.length
    assert parts(body.media_type, data) == [
        ("text/plain", f"bytes {start}-{end - 1}/{SIZE}", CONTENT[start:end]) for start, end in asked
    ]
    assert (source.opened, source.open) == (list(asked), [])


@given(slices, st.integers(0, 30))
def test_wherever_a_client_leaves_nothing_stays_open(asked: Sequence[tuple[int, int]], reads: int) -> None:
    source = Source()

    async def leave() -> None:
        body = body_of(source, *asked)
        for _ in range(reads):
            await body.read()
        for _ in range(2):
            await body.close()

    asyncio.run(leave())
    assert source.open == []


async def test_a_part_is_opened_when_its_turn_comes() -> None:
    source = Source()
    body = body_of(source, (400, 450), (0, 50))
    assert source.opened == []
    assert b"Content-Range: bytes 400-449/512" in await body.read()
    assert await body.read() == CONTENT[400:450]
    assert source.opened == [(400, 450)]
    assert b"Content-Range: bytes 0-49/512" in await body.read()
    assert source.opened == [(400, 450), (0, 50)]
    await body.close()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BodyCut("the download failed"), "the download failed"),
        (OSError(errno.EMFILE, "Too many open files"), "the cache cannot be read: Too many open files"),
    ],
)
async def test_a_part_that_cannot_be_opened_cuts_the_transfer(failure: Exception, reason: str) -> None:
    source = Source(failures={2: failure})
    body = body_of(source, (0, 50), (100, 150), (200, 250))
    await body.read()
    assert await body.read() == CONTENT[:50]
    with pytest.raises(BodyCut, match=reason):
        await body.read()
    assert source.open == []
    await body.close()


async def test_a_part_that_breaks_off_cuts_the_transfer_and_is_closed() -> None:
    source = Source()
    body = body_of(source, (0, 200), (300, 400))
    await body.read()
    await body.read()
    source.open[0].failure = BodyCut("the file became shorter")
    for _ in range(2):
        with pytest.raises(BodyCut, match="shorter"):
            await body.read()
    await body.close()
    assert source.open == []


def test_a_boundary_cannot_be_known_before() -> None:
    one, other = (body_of(Source(), (0, 1), (2, 3)) for _ in range(2))
    boundary = one.media_type.partition("boundary=")[2]
    assert len(boundary) == 32
    assert one.media_type != other.media_type
    assert one.length == other.length


def test_a_media_type_goes_out_as_it_came_in() -> None:
    """Whatever bytes an endpoint put in it: as in the other headers."""
    body = ByteRanges([(0, 1), (2, 3)], SIZE, "text/pl\udcffain", Source())
    assert b"Content-Type: text/pl\xffain\r\n" in asyncio.run(body.read())
