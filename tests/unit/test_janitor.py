"""Room in the cache, and damage in it: what goes, what stays, and who does it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from addon.cache import database, janitor
from addon.cache.contents import Contents
from addon.cache.janitor import Janitor
from addon.cache.pins import Pins
from addon.cache.reference import Reference
from addon.cache.store import Store
from addon.cache.tags import Tags
from addon.config.model import Amount, Space
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from addon.cache.partial import Partial

KB = 1000
ROOT = Path(__file__).parents[2]
NO_LIMIT = Space(Amount(share=1.0), Amount())


class Clock:
    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def __call__(self) -> float:
        self.now += 0.001  # of two things, none happens at the same time
        return self.now


class Cache:
    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.clock = Clock()
        self.connection = database.connect(folder / "mirrortap.sqlite")
        self.contents = Contents(self.store, self.connection, self.clock)
        self.pins = Pins(self.connection, Tags(self.connection))

    def janitor(self, limit: int | None = None, space: Space = NO_LIMIT) -> Janitor:
        if limit is not None:
            space = Space(Amount(bytes=limit), Amount())
        return Janitor(self.store, self.contents, self.pins, lambda: space, self.clock)

    def add(self, name: str, size: int = KB) -> Digest:
        return self.put(name.encode().ljust(size, b"."))

    def put(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.store.add(digest, content)
        self.contents.added(digest)
        return digest

    def leave(self, name: str, size: int = KB, age: float = 0.0) -> Partial:
        """What is left of a download; its lock is still to be given up."""
        partial = self.store.begin(Digest.of(name.encode()))
        partial.claim()
        partial.write(b"." * size)
        path = self.store.folder / "partial" / f"sha256-{Digest.of(name.encode()).encoded}"
        os.utime(path, (self.clock.now - age, self.clock.now - age))
        return partial

    def here(self, *digests: Digest) -> list[bool]:
        return [self.store.size(digest) is not None for digest in digests]

    def leftovers(self) -> set[Digest]:
        return {file.digest for file in self.store.partials()}

    def known(self) -> set[str]:
        return {digest for (digest,) in self.connection.execute("SELECT digest FROM content")}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.connection.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (on files, and a moment of the loop, not a length of time)
        await asyncio.sleep(0.005)


def locked(path: Path) -> bool:
    """Whether this process has it open and locked."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                return "FLOCK" in Path(f"/proc/self/fdinfo/{fd}").read_text()
    return False


# --- room ---


async def test_there_is_room(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    digests = [cache.add(f"{n}") for n in range(10)]
    await cache.janitor(10 * KB).make_room()
    assert all(cache.here(*digests))
    assert caplog.messages == []
    assert (cache.store.folder / "reserve").stat().st_size == 1 << 20, "for when there is not"


async def test_what_was_used_longest_ago_goes(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one, two, three, four = (cache.add(name) for name in "1234")
    os.close(cache.contents.open(one))
    os.close(cache.contents.open(two))
    await cache.janitor(3 * KB).make_room()
    assert cache.here(one, two, three, four) == [True, True, False, False], "95 % of the limit are two files"
    assert cache.known() == {str(one), str(two)}
    assert cache.contents.total() == 2 * KB
    assert caplog.messages == ["made room in the cache: 2 files evicted, 2.0 kB"]


async def test_a_lot_goes_in_many_steps(cache: Cache) -> None:
    digests = [cache.add(f"{n}", 10) for n in range(500)]
    await cache.janitor(200).make_room()
    assert cache.here(*digests) == [False] * 481 + [True] * 19


async def test_the_disk_is_kept_free(cache: Cache) -> None:
    """More of it than there is, so that everything has to go."""
    digests = [cache.add(f"{n}") for n in range(40)]
    await cache.janitor(space=Space(Amount(share=1.0), Amount(share=1.0))).make_room()
    assert not any(cache.here(*digests))


async def test_what_is_read_stays(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = (cache.add(name) for name in "123")
    fd = cache.store.open(one)  # not noted as use
    await cache.janitor(2 * KB).make_room()
    assert cache.here(one, two, three) == [True, False, False]
    await cache.janitor(0).make_room()
    assert cache.here(one) == [True]
    assert "1.0 kB too much is cached, or too little of the disk free, and all that is left is pinned or in use" in (
        caplog.text
    )
    os.close(fd)
    await cache.janitor(0).make_room()
    assert cache.here(one) == [False]


async def test_what_is_pinned_stays(cache: Cache) -> None:
    config, layer, other = (cache.add(name) for name in ("config", "layer", "other"))
    described = [{"digest": str(digest)} for digest in (config, layer)]
    top = cache.put(json.dumps({"config": described[0], "layers": described[1:]}).encode())
    reference = Reference("docker.io", "library/app", "1.0")
    cache.pins.add(reference)
    Tags(cache.connection).record("docker.io", "library/app", "1.0", frozenset(), top)
    await cache.janitor(0).make_room()
    assert cache.here(top, config, layer, other) == [True, True, True, False]
    cache.pins.remove(reference)
    await cache.janitor(0).make_room()
    assert cache.here(top, config, layer) == [False] * 3


async def test_content_whose_file_is_gone_is_forgotten(cache: Cache) -> None:
    gone = cache.add("gone")
    cache.store.remove(gone)
    await cache.janitor(0).make_room()
    assert cache.known() == set()


async def test_a_full_disk_makes_room_whatever_is_allowed(cache: Cache) -> None:
    digests = [cache.add(f"{n}") for n in range(40)]
    careless = cache.janitor()
    for number in (errno.EIO, errno.EROFS, errno.EACCES):
        careless.write_failed(OSError(number, ""))
        await careless.make_room()
    assert all(cache.here(*digests))
    for number, left in (errno.ENOSPC, 38), (errno.EDQUOT, 36):
        careless.write_failed(OSError(number, ""))
        await careless.make_room()
        await careless.make_room()
        assert sum(cache.here(*digests)) == left, "a twentieth of what is there, once"


async def test_what_could_not_be_noted_down_goes_too(cache: Cache) -> None:
    """As on a full disk, where the database could not be written either."""
    unknown = Digest.of(b"unknown")
    cache.store.add(unknown, b"unknown")
    careful = cache.janitor(0)
    await careful.make_room()
    assert cache.here(unknown) == [True]
    careful.write_failed(OSError(errno.ENOSPC, ""))
    await careful.make_room()
    assert cache.here(unknown) == [False]
    for later in 3601, -86400:  # an hour, and a clock that was ahead
        cache.store.add(unknown, b"unknown")
        cache.clock.now += later
        await careful.make_room()
        assert cache.here(unknown) == [False]


# --- leftovers ---


async def test_leftovers_go_before_content(cache: Cache) -> None:
    digest = cache.add("content")
    cache.leave("left", 3 * KB).close()
    await cache.janitor(3 * KB).make_room()
    assert cache.leftovers() == set()
    assert cache.here(digest) == [True]


async def test_the_oldest_leftovers_go_first(cache: Cache) -> None:
    for name, age in (("young", 10.0), ("old", 1000.0), ("middle", 100.0)):
        cache.leave(name, age=age).close()
    await cache.janitor(2 * KB).make_room()
    assert cache.leftovers() == {Digest.of(b"young")}


async def test_leftovers_of_yesterday_go_in_any_case(cache: Cache) -> None:
    cache.leave("today", age=23 * 3600).close()
    cache.leave("yesterday", age=25 * 3600).close()
    await cache.janitor().make_room()
    assert cache.leftovers() == {Digest.of(b"today")}


async def test_downloads_that_go_on_stay_however_old(cache: Cache) -> None:
    digest = cache.add("content")
    running = cache.leave("running", age=100 * 3600)
    await cache.janitor(0).make_room()
    assert cache.leftovers() == {Digest.of(b"running")}
    assert cache.here(digest) == [False], "it makes room for them, too"
    running.close()
    await cache.janitor(0).make_room()
    assert cache.leftovers() == set()


# --- several processes ---


async def test_one_at_a_time(cache: Cache) -> None:
    digest = cache.add("content")
    fd = os.open(cache.store.folder / "janitor.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    waiting = cache.janitor()
    waiting.write_failed(OSError(errno.ENOSPC, ""))
    await waiting.make_room()
    assert cache.here(digest) == [True]
    os.close(fd)
    await waiting.make_room()
    assert cache.here(digest) == [False], "what it could not do is not forgotten"


WORKER = """
import asyncio, hashlib, os, random, sys
from pathlib import Path
from addon.cache import database
from addon.config.model import Amount, Space
from addon.cache.contents import Contents
from addon.cache.janitor import Janitor
from addon.oci import Digest
from addon.cache.pins import Pins
from addon.cache.store import Store
from addon.cache.tags import Tags

folder, name = Path(sys.argv[1]), sys.argv[2]
store = Store(folder)
connection = database.connect(folder / "mirrortap.sqlite")
contents = Contents(store, connection)
janitor = Janitor(store, contents, Pins(connection, Tags(connection)), lambda: Space(Amount(bytes=200_000), Amount()))
contents.grew = janitor.nudge
everything = [b"%d" % n * 10_000 for n in range(60)]

async def main():
    janitor.start()
    order = random.Random(name)
    for _ in range(250):
        content = order.choice(everything)
        digest = Digest.of(content)
        try:
            fd = contents.open(digest)
        except FileNotFoundError:
            store.add(digest, content)
            contents.added(digest)
            continue
        await asyncio.sleep(0.001)
        assert os.pread(fd, 1 << 20, 0) == content
        os.close(fd)
        if order.random() < 0.2:
            await janitor.make_room()
    await janitor.close()

asyncio.run(main())
"""


def test_two_processes_at_it(cache: Cache) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(cache.store.folder), name],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    for worker in workers:
        assert worker.communicate(timeout=60)[1] == ""
        assert worker.returncode == 0
    asyncio.run(cache.janitor(200_000).make_room())
    files = list(cache.store.contents())
    assert cache.known() == {str(file.digest) for file in files}
    assert cache.contents.total() == sum(file.size for file in files)
    assert 0 < cache.contents.total() <= 200_000
    for file in files:
        assert hashlib.sha256(cache.store.path(file.digest).read_bytes()).hexdigest() == file.digest.encoded


# --- damage ---


async def test_damage_is_found_in_time(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    old, good = cache.add("old"), cache.add("good")
    cache.store.path(old).write_bytes(b"x" * KB)
    looking = cache.janitor()
    await looking.sample()
    assert cache.here(old, good) == [True, True], "what was downloaded just now is right"
    cache.clock.now += 25 * 3600
    await looking.sample()
    assert cache.here(old, good) == [False, True]
    assert cache.known() == {str(good)}
    assert f"{cache.store.path(old)} was damaged" in caplog.text
    cache.clock.now += 61
    await looking.sample()
    assert cache.contents.unchecked(3600) is None
    assert cache.here(good) == [True]


async def test_one_a_minute_for_all_processes(cache: Cache) -> None:
    digests = {cache.add(name) for name in "12"}
    cache.clock.now += 25 * 3600
    await cache.janitor().sample()
    await cache.janitor().sample()
    first = cache.contents.unchecked(3600)
    assert first in digests
    cache.clock.now += 61
    await cache.janitor().sample()
    assert cache.contents.unchecked(3600) is None


async def test_a_clock_that_is_set_back_does_not_end_it(cache: Cache) -> None:
    cache.add("content")
    cache.clock.now += 1e6
    await cache.janitor().sample()
    cache.clock.now -= 9e5
    cache.connection.execute("UPDATE content SET checked = 0")
    await cache.janitor().sample()
    assert cache.contents.unchecked(3600) is None


async def test_what_is_gone_does_not_stop_it(cache: Cache) -> None:
    gone, good = cache.add("gone"), cache.add("good")
    cache.store.remove(gone)
    for _ in range(2):
        cache.clock.now += 25 * 3600
        await cache.janitor().sample()
    assert cache.known() == {str(good)}
    assert cache.contents.unchecked(3600) is None


async def test_what_is_being_checked_is_not_evicted(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "_RATE", 1)
    digest = cache.add("content")
    cache.clock.now += 25 * 3600
    looking = cache.janitor(0)
    checking = asyncio.create_task(looking.sample())
    await until(lambda: locked(cache.store.path(digest)))
    await looking.make_room()
    assert cache.here(digest) == [True]
    # It would take a quarter of an hour.
    await looking.close()
    await checking
    assert cache.contents.unchecked(3600) == digest, "it was not checked to its end"


# --- the task ---


async def test_it_looks_when_it_starts_and_when_told(cache: Cache) -> None:
    first = cache.add("first")
    working = cache.janitor(0)
    cache.contents.grew = working.nudge
    working.start()
    await until(lambda: not cache.here(first)[0])
    second = cache.add("second")
    await until(lambda: not cache.here(second)[0])
    await working.close()


async def test_neither_what_grows_fast_nor_a_full_disk_waits_for_the_pause(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_PAUSE", 1e9)
    monkeypatch.setattr(janitor, "_LONGEST_PAUSE", 1e9)
    first = cache.add("first")
    working = cache.janitor(0)
    cache.contents.grew = working.nudge
    working.start()
    await until(lambda: not cache.here(first)[0])
    second = cache.add("second")
    for _ in range(50):
        await asyncio.sleep(0)
    assert cache.here(second) == [True]
    free = os.statvfs(cache.store.folder).f_bavail * os.statvfs(cache.store.folder).f_frsize
    working.nudge(free)
    await until(lambda: not cache.here(second)[0])
    third = cache.add("third")
    working.write_failed(OSError(errno.ENOSPC, ""))
    await until(lambda: not cache.here(third)[0])
    await working.close()


async def test_use_is_written_down_at_the_end(cache: Cache) -> None:
    one, two = cache.add("1"), cache.add("2")
    working = cache.janitor()
    working.start()
    os.close(cache.contents.open(one))
    await working.close()
    assert [entry.digest for entry in cache.contents.by_use()] == [two, one]


async def test_no_trouble_ends_it(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    digest = cache.add("content")
    lock = cache.store.folder / "janitor.lock"
    lock.mkdir()
    working = cache.janitor(0)
    await working.make_room()
    assert "no room can be made: [Errno 21] Is a directory" in caplog.text
    lock.rmdir()
    cache.connection.execute("INSERT INTO content VALUES ('no digest', 1, 0, 0)")
    await working.make_room()
    assert "no room can be made: a fault in mirrortap" in caplog.text
    cache.connection.execute("DELETE FROM content WHERE digest = 'no digest'")
    await working.make_room()
    assert cache.here(digest) == [False]
