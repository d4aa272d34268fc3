"""Configuration files that change in all the ways that files do."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import Authority
from support.config import toml

from addon import watching
from addon.config.load import load
from addon.config.model import ConfigError
from addon.watching import Watch, Watching

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Config

Told = Callable[[], list[str]]

BROKEN = '[registry."docker.io"]\nmirors = []\n'
REFUSED = "the configuration is REFUSED, and the one before stays in use: "


def mirrored(*mirrors: str) -> str:
    return toml({"docker.io": {"mirrors": mirrors}})


class Rig:
    """A watch of one file, and what became of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.adopted: list[Config] = []
        self.while_reading: Callable[[], object] = lambda: None
        self.watch = Watch(self._read, [path])
        self.watch.adopt = self.adopted.append

    def _read(self) -> Config:
        self.reads += 1
        try:
            return load([self.path])
        finally:
            self.while_reading()

    def look(self, times: int = 2) -> None:
        """A change is read at the second one that sees it."""
        for _ in range(times):
            self.watch.look()

    @property
    def mirrors(self) -> list[str]:
        return [mirror.name for mirror in self.watch.config.rules["docker.io"].mirrors]


@pytest.fixture(autouse=True)
def clocks_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if whatever is here had been written long ago: tests do not write the same size twice."""
    monkeypatch.setattr(watching, "_RECENT", -3600.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mirrortap.toml"
    path.write_text(mirrored("one.io"))
    return path


@pytest.fixture
def rig(path: Path) -> Rig:
    return Rig(path)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log has got since the last call."""
    caplog.set_level(logging.INFO)

    def lines() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return said

    return lines


def put_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename(path: Path, text: str) -> None:
    aside = path.with_name("aside")
    aside.write_text(text)
    aside.replace(path)


@pytest.mark.parametrize("write", [put_in_place, rename])
def test_a_change_is_adopted_when_it_has_settled(rig: Rig, told: Told, write: Callable[[Path, str], None]) -> None:
    rig.look(5)
    assert (rig.reads, told()) == (1, [])
    write(rig.path, mirrored("two.io", "one.io"))
    rig.look(1)
    assert (rig.mirrors, rig.reads) == (["one.io"], 1)
    rig.look(1)
    assert rig.mirrors == ["two.io", "one.io"]
    assert rig.adopted == [rig.watch.config]
    assert told() == ["the configuration has changed, and is in use: changed docker.io"]
    rig.look(5)
    assert (rig.reads, told()) == (2, [])


def test_a_file_that_is_still_being_written_is_not_read(rig: Rig) -> None:
    text = mirrored("two.io")
    for end in range(10, len(text), 10):
        rig.path.write_text(text[:end])
        rig.look(1)
    assert rig.reads == 1
    rig.path.write_text(text)
    rig.look()
    assert (rig.reads, rig.mirrors) == (2, ["two.io"])


@pytest.mark.parametrize("meanwhile", [mirrored("the-third.io"), BROKEN])
def test_a_read_during_which_there_was_a_change_does_not_count(rig: Rig, told: Told, meanwhile: str) -> None:
    def change() -> None:
        rig.path.write_text(meanwhile)
        rig.while_reading = lambda: None

    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.while_reading = change
    rig.look()
    assert (rig.reads, rig.mirrors, told()) == (2, ["one.io"], [])
    rig.look()
    if meanwhile is BROKEN:
        assert rig.mirrors == ["one.io"]
        assert len(told()) == 1
    else:
        assert rig.mirrors == ["the-third.io"]


def test_what_was_written_just_before_a_read_may_have_changed_after_it(
    path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same tick of the file system's clock, with the same size, in the same file."""
    monkeypatch.setattr(watching, "_RECENT", 3600.0)
    rig = Rig(path)
    found = watching.signature(path)
    monkeypatch.setattr(watching, "signature", lambda _: found)
    path.write_text(mirrored("two.io"))
    rig.look()
    assert rig.mirrors == ["two.io"]
    told()
    rig.look(4)
    assert told() == []


def test_a_broken_one_is_refused_once_for_each_change(rig: Rig, told: Told) -> None:
    why = f'{rig.path}: registry."docker.io".mirors: unknown key; did you mean mirrors?'
    for text in (BROKEN, BROKEN + "\n"):
        rig.path.write_text(text)
        rig.look(6)
        assert told() == [f"{REFUSED}{why}"]
    assert (rig.mirrors, rig.adopted, rig.reads) == (["one.io"], [], 3)
    rig.path.write_text(mirrored("one.io") + "\n")
    rig.look()
    assert told() == ["the configuration is good again, and says what the one in use says"]


def test_what_is_wrong_is_one_line(rig: Rig, told: Told) -> None:
    rig.path.write_text('[registry."a.io"]\nhttp = 1\nmirrors = 2\n')
    rig.look()
    (line,) = told()
    assert "\n" not in line
    assert re.search(r"a\.io.*; .*a\.io.*", line)


def unlink(path: Path) -> None:
    path.unlink()


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("spoil", [unlink, be_a_folder, lead_nowhere])
def test_a_file_that_is_gone_is_a_broken_one(rig: Rig, told: Told, spoil: Callable[[Path], None]) -> None:
    spoil(rig.path)
    rig.look(6)
    (line,) = told()
    assert line.startswith(f"{REFUSED}{rig.path}: ")
    assert (rig.mirrors, rig.adopted) == (["one.io"], [])
    rig.path.rmdir() if rig.path.is_dir() else rig.path.unlink(missing_ok=True)
    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.look()
    assert rig.mirrors == ["two.io", "one.io"]
    assert told() == ["the configuration has changed, and is in use: changed docker.io"]


def test_a_config_map(tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link that all files are behind."""
    for version, mirror in (("..1", "one.io"), ("..2", "two.io")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "mirrortap.toml").write_text(mirrored(mirror))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "mirrortap.toml").symlink_to("..data/mirrortap.toml")
    rig = Rig(tmp_path / "mirrortap.toml")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")
    rig.look()
    assert rig.mirrors == ["two.io"]


def test_what_a_file_names_is_watched_too(tmp_path: Path, path: Path, told: Told) -> None:
    one, other = Authority(tmp_path / "one"), Authority(tmp_path / "other")
    ca, folder = tmp_path / "ca.pem", tmp_path / "certs"
    folder.mkdir()
    shutil.copy(one.file, ca)
    path.write_text(toml({"a.io": {"ca": [ca], "tlsconfigdir": [folder]}}))
    rig = Rig(path)

    def trusted() -> list[Path]:
        return list(rig.watch.config.rules["a.io"].origins[0].tls.ca)

    rig.look(4)
    assert rig.adopted == []
    ca.write_bytes(one.file.read_bytes() + other.file.read_bytes())
    rig.look()
    # Equal, and yet another one for whoever has made something of the files.
    assert rig.adopted == [rig.watch.config]
    assert told() == [f"the configuration was read again, and says the same; changed: {ca}"]
    shutil.copy(other.file, folder / "added.crt")
    rig.look()
    assert trusted() == [ca, folder / "added.crt"]
    (folder / "added.crt").write_text("no certificate")
    rig.look()
    assert "added.crt holds no PEM certificate" in told()[-1]
    (folder / "added.crt").unlink()
    rig.look()
    assert trusted() == [ca]
    assert told() == ["the configuration has changed, and is in use: changed a.io"]


def test_secrets_and_users_are_watched_too(tmp_path: Path, path: Path) -> None:
    names = ["password", "users", "config.json"]
    for name, text in zip(
        names, ["x", "a:{SHA}" + "A" * 27 + "=", '{"auths": {"b.io": {"auth": "YTpi"}}}'], strict=True
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    auths = {
        "a.io": {"auth": {"username": "amy", "password-file": "password"}},
        "b.io": {"auth": {"docker-config": "config.json"}},
    }
    path.write_text(toml(auths, {"proxy-users": "users"}))
    rig = Rig(path)
    for name in names:
        adopted = len(rig.adopted)
        (tmp_path / name).chmod(0o640)
        rig.look()
        assert len(rig.adopted) == adopted + 1, name


def test_what_was_refused_for_something_unknown_is_tried_again(
    tmp_path: Path, rig: Rig, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.path.write_text(toml({"a.io": {"ca": ["ca.pem"]}}))
    rig.look()
    assert "ca.pem cannot be read: No such file" in told()[0]
    begun = time.monotonic()

    def later(seconds: float) -> list[str]:
        monkeypatch.setattr("time.monotonic", lambda: begun + seconds)
        rig.look(6)
        return told()

    # It is tried, and the same is not told again.
    assert later(30) == []
    shutil.copy(Authority(tmp_path / "authority").file, tmp_path / "ca.pem")
    assert later(35) == []
    assert later(60) == ["the configuration has changed, and is in use: added a.io; changed docker.io"]


def test_what_cannot_be_adopted_is_refused(rig: Rig, told: Told) -> None:
    def refuse(config: Config) -> None:
        raise ConfigError("the root's key is needed")

    rig.watch.adopt = refuse
    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.look(6)
    assert rig.mirrors == ["one.io"]
    assert told() == [f"{REFUSED}the root's key is needed"]


def test_a_fault_of_ours_does_not_end_the_watch(rig: Rig, told: Told) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    rig.while_reading = fail
    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.look(6)
    assert len(told()) == 2
    rig.while_reading = lambda: None
    rig.path.write_text(mirrored("three.io"))
    rig.look()
    assert rig.mirrors == ["three.io"]


def test_new_warnings_are_told(rig: Rig, told: Told) -> None:
    rig.path.write_text(toml({"10.0.0.1": {"mirrors": ["m.io"]}}))
    rig.look()
    assert "its mirrors are not used" in told()[1]
    rig.path.write_text(toml({"10.0.0.1": {"mirrors": ["m.io"]}, "a.io": {}}))
    rig.look()
    assert told() == ["the configuration has changed, and is in use: added a.io"]


def test_asked_to_read_it_reads_at_once(rig: Rig, told: Told) -> None:
    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.watch.look(anyway=True)
    assert rig.mirrors == ["two.io", "one.io"]
    told()
    rig.watch.look(anyway=True)
    assert told() == ["the configuration was read again, and says the same; changed: no file"]


def test_who_is_quiet_keeps_the_news_for_others(rig: Rig, told: Told) -> None:
    rig.watch.quiet = True
    rig.path.write_text(mirrored("two.io", "one.io"))
    rig.look()
    rig.path.write_text(BROKEN)
    rig.look()
    assert (rig.mirrors, told()) == (["two.io", "one.io"], [])
    rig.watch.quiet = False
    rig.watch.remind()
    rig.look(1)
    (line,) = told()
    assert line.startswith(REFUSED)
    rig.look(5)
    assert told() == []


def test_looking_takes_a_small_share_of_the_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.watch.look() == 1.0
    spent = iter([10.0, 10.1])
    monkeypatch.setattr("time.thread_time", lambda: next(spent))
    assert rig.watch.look() == pytest.approx(5.0)


Writes = st.lists(
    st.tuples(st.sampled_from(["write", "rename", "delete", "look", "settle"]), st.integers(0, 3)), max_size=12
)


@settings(max_examples=30)
@given(Writes)
def test_whatever_is_done_the_last_good_one_counts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "mirrortap.toml"
    path.write_text(mirrored("one.io"))
    rig = Rig(path)
    before = rig.watch.config
    for number, (what, kind) in enumerate(steps):
        # Never the same size twice.
        text = f"{BROKEN if kind == 0 else mirrored(*(f'm{kind}.io',) * kind)}#{'.' * number}"
        match what:
            case "write":
                path.write_text(text)
            case "rename":
                rename(path, text)
            case "delete":
                path.unlink(missing_ok=True)
            case _:
                rig.look(2 if what == "settle" else 1)
    before = rig.watch.config
    rig.look()
    try:
        assert rig.watch.config == load([path])
    except ConfigError:
        assert rig.watch.config == before


async def test_it_looks_by_itself_until_it_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_INTERVAL", 0.01)
    found = asyncio.Event()
    loop = asyncio.get_running_loop()

    def adopt(_: Config) -> None:
        loop.call_soon_threadsafe(found.set)

    rig.watch.adopt = adopt
    looking = Watching(rig.watch)
    rig.path.write_text(mirrored("two.io", "one.io"))
    async with asyncio.timeout(20):
        await found.wait()
    monkeypatch.setattr(watching, "_INTERVAL", 3600.0)
    found.clear()
    rig.path.write_text(mirrored("three.io"))
    looking.ask()
    async with asyncio.timeout(20):
        await found.wait()
    await looking.close()
    assert len(asyncio.all_tasks()) == 1
