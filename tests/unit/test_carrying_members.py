"""Archives are read a member at a time, whatever they claim: what is hostile is refused by name, in bounded memory."""

from __future__ import annotations

import gc
import gzip
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archives import special, tarred

from addon.carrying import members
from addon.carrying.names import BadArchive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def read(file: Path) -> dict[str, bytes]:
    with members.opened(file) as found:
        return {member.name: member.file.read() if member.file else b"" for member in found}


def refused(tmp_path: Path, archive: bytes) -> str:
    file = tmp_path / "archive"
    file.write_bytes(archive)
    with pytest.raises(BadArchive) as error:
        read(file)
    return str(error.value)


def read_or_refused(file: Path) -> dict[str, bytes]:
    """Nothing where it is refused in words that can be shown."""
    try:
        return read(file)
    except BadArchive as error:
        told = str(error)
    assert told.isprintable()
    return {}


FILES = {"index.json": b"{}", "some/file": b"content" * 1000, "empty": b""}


@pytest.mark.parametrize("how", [lambda tar: tar, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars(tmp_path: Path, how: Callable[[bytes], bytes], format: int) -> None:
    file = tmp_path / "archive"
    folder = special("./some/", tarfile.DIRTYPE)
    file.write_bytes(how(tarred([folder, *((f"./{name}", data) for name, data in FILES.items())], format)))
    assert read(file) == FILES


def test_compressed_archives_in_several_pieces(tmp_path: Path) -> None:
    tar, file = tarred(FILES.items()), tmp_path / "archive"
    for compress in gzip.compress, zstandard.compress:
        file.write_bytes(compress(tar[:700]) + compress(tar[700:]))
        assert read(file) == FILES


def test_a_folder(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    for name, content in {"index.json": b"{}", "oci-layout": b"{}", "blobs/sha256/ab": b"blob", "README": b""}.items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(content)
    assert read(layout) == {"index.json": b"{}", "oci-layout": b"{}", "blobs/sha256/ab": b"blob"}
    (layout / "blobs/sha256/cd").symlink_to("/etc/passwd")
    with pytest.raises(BadArchive, match="'blobs/sha256/cd': is no file"):
        read(layout)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (("../../etc/passwd", b""), "'../../etc/passwd': leads out of the archive"),
        (("/etc/passwd", b""), "'/etc/passwd': leads out of the archive"),
        (special("hard", tarfile.LNKTYPE, "index.json"), "'hard': is neither a file nor a folder"),
        (special("null", tarfile.CHRTYPE), "'null': is neither a file nor a folder"),
        (special("disk", tarfile.BLKTYPE), "'disk': is neither"),
        (special("pipe", tarfile.FIFOTYPE), "'pipe': is neither"),
        (special("holes", tarfile.GNUTYPE_SPARSE), "'holes': is a sparse file"),
    ],
)
def test_hostile_members(tmp_path: Path, entry: tarfile.TarInfo | tuple[str, bytes], told: str) -> None:
    assert told in refused(tmp_path, tarred([("index.json", b"{}"), entry]))


@pytest.mark.parametrize("how", ["GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major"])
def test_sparse_files_by_pax_records(tmp_path: Path, how: str) -> None:
    info = tarfile.TarInfo("holes")
    info.pax_headers = {how: "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "999", "GNU.sparse.offset": "0"}
    assert "is a sparse file" in refused(tmp_path, tarred([info]))


@pytest.mark.parametrize("type_", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_are_not_taken_into_memory(tmp_path: Path, type_: bytes) -> None:
    """64 MB of zeros, which compress to 64 kB."""
    info = tarfile.TarInfo("name")
    info.type, info.size = type_, 64 << 20
    file = tmp_path / "archive"
    with gzip.open(file, "wb", 1) as packed:
        packed.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size))
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match="says more of another member"):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_headers_that_follow_one_another(tmp_path: Path) -> None:
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 0
    assert "says more of another member" in refused(tmp_path, info.tobuf() * 10_000)
    info.type = tarfile.XGLTYPE
    assert "says more of another member" in refused(tmp_path, (info.tobuf() + tarfile.TarInfo("x").tobuf()) * 100)


def test_members_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many headers of nothing, compressed, are read as are allowed, and none of them is kept."""
    monkeypatch.setattr(members, "_MOST", 2000)
    file = tmp_path / "archive"
    file.write_bytes(gzip.compress(tarfile.TarInfo("x").tobuf() * 2001, 1))
    with members.opened(file) as found:
        for _ in range(2000):
            next(found)
        assert sum(isinstance(each, tarfile.TarInfo) for each in gc.get_objects()) < 100
        with pytest.raises(BadArchive, match="more than 2000 members"):
            next(found)


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b broken", b"\x28\xb5\x2f\xfd broken", bytes(100)])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    assert "it is damaged, cut off, or no archive" in refused(tmp_path, content)


def test_what_is_cut_off(tmp_path: Path) -> None:
    tar = tarred([("blob", bytes(100_000))])
    for cut in tar[:50_000], gzip.compress(tar)[:-30], zstandard.compress(tar)[:-10]:
        assert "it is damaged, cut off, or no archive" in refused(tmp_path, cut)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=120)
entries = st.tuples(names, st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]), names)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, max_size=4), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_whatever_members_are_called(tmp_path: Path, made: list[tuple[str, bytes, str]], format: int) -> None:
    file = tmp_path / "archive"
    file.write_bytes(tarred([special(*entry) for entry in made], format))
    found = read_or_refused(file)
    assert all(not name.startswith("/") and ".." not in name.split("/") and name.isprintable() for name in found)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_headers(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes of a header may be others, with its checksum right."""
    header = bytearray(tarred([("blob", bytes(600)), ("x" * 150, b"")], tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 3))):
        at, size = data.draw(st.sampled_from([(0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8)]))
        header[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    file = tmp_path / "archive"
    file.write_bytes(header)
    read_or_refused(file)
