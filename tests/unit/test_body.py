"""Bodies, read piece by piece: files that are complete or still growing, and bytes that pass through."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addon.body import CHUNK, BodyCut, FileBody, RelayedBody, VerifiedBody
from addon.config.model import Endpoint
from addon.oci import Digest
from addon.upstream.response import EndpointError, Response

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from addon.body import Body

CONTENT = os.urandom(3 * CHUNK + 17)


async def everything(body: Body) -> bytes:
    """To the end, which must stay the end."""
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    assert await body.read() == b""
    await body.close()
    return b"".join(pieces)


def file_with(folder: Path, content: bytes) -> int:
    path = folder / "file"
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


# --- complete files ---


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, len(CONTENT)),
        (0, None),
        (0, 1),
        (5, 5),
        (CHUNK - 1, CHUNK + 1),
        (len(CONTENT) - 1, None),
        (len(CONTENT), None),
    ],
)
async def test_a_slice_of_a_file(tmp_path: Path, start: int, end: int | None) -> None:
    body = FileBody(file_with(tmp_path, CONTENT), start, end)
    assert await everything(body) == CONTENT[start:end]


async def test_pieces_are_not_larger_than_a_chunk(tmp_path: Path) -> None:
    body = FileBody(file_with(tmp_path, CONTENT), 0, len(CONTENT))
    assert {len(await body.read()) for _ in range(3)} == {CHUNK}
    assert len(await body.read()) == 17


async def test_the_descriptor_is_closed(tmp_path: Path) -> None:
    fd = file_with(tmp_path, CONTENT)
    await FileBody(fd, 0, 1).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_file_that_became_shorter_cuts_the_transfer(tmp_path: Path) -> None:
    """The client was promised more: an orderly end would make it believe it has all."""
    body = FileBody(file_with(tmp_path, CONTENT), 0, len(CONTENT))
    await body.read()
    os.truncate(tmp_path / "file", CHUNK)
    with pytest.raises(BodyCut, match="shorter"):
        await everything(body)


async def test_a_file_that_cannot_be_read_cuts_the_transfer(tmp_path: Path) -> None:
    # Opened for writing only, for want of a broken disk.
    body = FileBody(os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT), 0, 10)
    try:
        with pytest.raises(BodyCut):
            await body.read()
    finally:
        await body.close()


# --- growing files ---


class Growing:
    """A file on which a test writes; `addon.body.Growth`."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"")
        self._path = path
        self._shown = 0
        self._over = False
        self._failure: str | None = None
        self._changed = asyncio.Condition()

    def open(self) -> int:
        return os.open(self._path, os.O_RDONLY)

    async def grown(self, offset: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self._shown > offset or self._over)
        if self._failure:
            raise BodyCut(self._failure)
        return self._shown

    async def write(self, data: bytes, *, shown: bool = True) -> None:
        with self._path.open("ab") as file:
            file.write(data)
        async with self._changed:
            self._shown += len(data) * shown
            self._changed.notify_all()

    async def finish(self, failure: str | None = None) -> None:
        async with self._changed:
            self._over, self._failure = True, failure
            self._changed.notify_all()


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 300), (50, 250), (150, 151), (299, None)])
async def test_readers_follow_a_growing_file(tmp_path: Path, start: int, end: int | None) -> None:
    file = Growing(tmp_path / "file")
    early = asyncio.create_task(everything(FileBody(file.open(), start, end, file)))
    for i in range(3):
        await file.write(CONTENT[100 * i : 100 * (i + 1)])
    await file.finish()
    assert await early == CONTENT[start : 300 if end is None else end]
    assert await everything(FileBody(file.open(), start, end, file)) == await early


async def test_a_reader_gets_what_there_is_and_then_waits(tmp_path: Path) -> None:
    file = Growing(tmp_path / "file")
    body = FileBody(file.open(), 0, 4, file)
    await file.write(b"ab")
    assert await body.read() == b"ab"
    waiting = asyncio.create_task(body.read())
    # On disk, but not to be shown yet, as the last byte of an unverified fill.
    await file.write(b"c", shown=False)
    assert not waiting.done()
    await file.write(b"d")
    assert await waiting == b"c"
    await body.close()


async def test_a_slice_does_not_wait_for_what_comes_after_it(tmp_path: Path) -> None:
    file = Growing(tmp_path / "file")
    await file.write(b"abcd")
    assert await everything(FileBody(file.open(), 1, 3, file)) == b"bc"


async def test_a_growth_that_fails_cuts_the_transfer(tmp_path: Path) -> None:
    file = Growing(tmp_path / "file")
    body = FileBody(file.open(), 0, 10, file)
    await file.write(b"ab")
    assert await body.read() == b"ab"
    waiting = asyncio.create_task(body.read())
    await file.finish("m.io sent a bad sha256:...")
    with pytest.raises(BodyCut, match=r"m\.io sent a bad"):
        await waiting
    await body.close()


async def test_a_growth_that_ends_too_early_cuts_the_transfer(tmp_path: Path) -> None:
    file = Growing(tmp_path / "file")
    await file.write(b"ab")
    await file.finish()
    body = FileBody(file.open(), 0, 10, file)
    try:
        with pytest.raises(BodyCut):
            await everything(body)
    finally:
        await body.close()


# --- bytes that pass through ---


class Pieces:
    """A body of these pieces; `failure` comes in place of the end."""

    def __init__(self, pieces: Iterable[bytes], failure: Exception | None = None) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._failure = failure
        self.closed = False

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._failure:
            raise self._failure
        return b""

    async def close(self) -> None:
        self.closed = True


class Answer(Response):
    """An endpoint's answer without a network."""

    def __init__(self, pieces: Pieces) -> None:
        self.endpoint = Endpoint("m.io", "https://m.io")
        self.pieces = pieces

    async def read(self) -> bytes:
        return await self.pieces.read()

    async def close(self) -> None:
        await self.pieces.close()


async def test_a_relayed_body_is_the_endpoints() -> None:
    answer = Answer(Pieces([b"ab", b"c"]))
    body = RelayedBody(answer)
    assert await everything(body) == b"abc"
    assert answer.pieces.closed


async def test_a_relayed_body_that_breaks_off_names_the_endpoint() -> None:
    body = RelayedBody(Answer(Pieces([b"ab"], EndpointError("the body broke off: no data in time"))))
    assert await body.read() == b"ab"
    with pytest.raises(BodyCut, match=r"m\.io: the body broke off"):
        await body.read()


async def received(body: VerifiedBody) -> tuple[bytes, BodyCut | None]:
    """What a client has when the body ends or is cut, however often it is asked for more."""
    got = bytearray()
    try:
        while piece := await body.read():
            got += piece
    except BodyCut as cut:
        for _ in range(2):
            with pytest.raises(BodyCut):
                got += await body.read()
        return bytes(got), cut
    assert await body.read() == b""
    return bytes(got), None


chunkings = st.lists(st.binary(min_size=1, max_size=5), max_size=6)


@settings(deadline=None)
@given(pieces=chunkings, algorithm=st.sampled_from(["sha256", "sha512"]))
def test_right_bytes_pass_in_whatever_pieces(pieces: list[bytes], algorithm: str) -> None:
    content = b"".join(pieces)
    digest = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    source = Pieces(pieces)
    body = VerifiedBody(source, digest, "m.io")
    assert asyncio.run(received(body)) == (content, None)
    asyncio.run(body.close())
    assert source.closed


@settings(deadline=None)
@given(pieces=chunkings, expected=st.binary(max_size=8))
def test_of_wrong_bytes_the_last_piece_never_passes(pieces: list[bytes], expected: bytes) -> None:
    content = b"".join(pieces)
    if content == expected:
        return
    got, cut = asyncio.run(received(VerifiedBody(Pieces(pieces), Digest.of(expected), "m.io")))
    assert got == b"".join(pieces[:-1])
    assert cut is not None
    assert str(cut) == f"m.io sent bytes that do not have digest {Digest.of(expected)}"


@settings(deadline=None)
@given(pieces=chunkings)
def test_of_a_body_that_breaks_off_the_last_piece_never_passes(pieces: list[bytes]) -> None:
    """Also when the bytes so far happen to be right: nobody has said that they are all."""
    body = VerifiedBody(Pieces(pieces, BodyCut("broke off")), Digest.of(b"".join(pieces)), "m.io")
    got, cut = asyncio.run(received(body))
    assert got == b"".join(pieces[:-1])
    assert str(cut) == "broke off"
