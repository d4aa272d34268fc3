"""Logging in to the proxy: htpasswd files, and what is held against them."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock
from support.config import toml

from addon.admission import logins as module
from addon.admission.logins import Logins, TooManyGuesses, credentials
from addon.config import htpasswd
from addon.config.load import load
from addon.config.model import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mitmproxy.utils.htpasswd import HtpasswdFile

# As `htpasswd -nbBC 4` and `htpasswd -nbs` write them: (s3cret, "p:ä wörd", sha)
ANN = "ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L."
BOB = "bob:$2y$04$9rYHabPFXFHjbXXOzF7j7OGY0WEQFN0cSoncTnGNWwh7XgWL797gO"
OLD = "old:{SHA}2PRZAyDhNDqRW2OUFwZQqPNdaSY="


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"# who may pull\n{ANN}\n\n{BOB}\r\n{OLD}\n")
    path.chmod(0o600)
    return path


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The users whose password was hashed; the real thing is done."""
    users = []
    real = module._matches

    def matches(known: HtpasswdFile, user: str, password: str) -> bool:
        users.append(user)
        return real(known, user, password)

    monkeypatch.setattr(module, "_matches", matches)
    return users


@pytest.mark.parametrize(
    ("user", "password", "allowed"),
    [
        ("ann", "s3cret", True),
        ("bob", "p:ä wörd", True),
        ("old", "sha", True),
        ("ann", "s3cret ", False),
        ("ann", "", False),
        ("ann", "p:ä wörd", False),
        ("Ann", "s3cret", False),
        ("nobody", "s3cret", False),
        ("", "", False),
        # What bcrypt refuses to look at.
        ("ann", "x" * 73, False),
        ("ann", "s3cret\0", False),
        ("nobody", "x" * 73, False),
    ],
)
async def test_who_is_allowed(file: Path, user: str, password: str, allowed: bool) -> None:
    assert await Logins(file).allows("10.0.0.1", basic(user, password)) is allowed


@pytest.mark.parametrize(
    "authorization", ["", "Basic", "Basic ?", "Bearer YW5uOnMzY3JldA==", "Basic YW5u", "Basic /w==", "s3cret"]
)
async def test_what_is_no_credential_is_nobodys(file: Path, authorization: str) -> None:
    assert not await Logins(file).allows("10.0.0.1", authorization)


@given(st.text().filter(lambda user: ":" not in user), st.text())
def test_a_credential_is_read_as_it_was_written(user: str, password: str) -> None:
    assert credentials(basic(user, password)) == (user, password)
    assert credentials(basic(user, password).replace("Basic", "BASIC ")) == (user, password)


async def test_a_credential_is_hashed_once_in_a_while(file: Path, clock: Clock, hashed: list[str]) -> None:
    logins = Logins(file, clock)
    right, wrong = basic("ann", "s3cret"), basic("bob", "wrong")
    # Many at once, too: a builder's first pull opens several connections.
    assert await asyncio.gather(*(logins.allows("10.0.0.1", right) for _ in range(20))) == [True] * 20
    assert await asyncio.gather(*(logins.allows("10.0.0.1", wrong) for _ in range(20))) == [False] * 20
    assert hashed == ["ann", "bob"]
    clock.now += 299
    assert await logins.allows("10.0.0.1", right)
    assert hashed == ["ann", "bob"]
    clock.now += 2
    assert await logins.allows("10.0.0.1", right)
    assert not await logins.allows("10.0.0.1", wrong)
    assert hashed == ["ann", "bob", "ann", "bob"]


async def test_guessing_is_slow(file: Path, clock: Clock, hashed: list[str]) -> None:
    logins = Logins(file, clock)
    assert await logins.allows("10.0.0.1", basic("ann", "s3cret"))
    # All at once is no way around it.
    guesses = [logins.allows("10.0.0.1", basic("bob", str(i))) for i in range(50)]
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert outcomes[:10] == [False] * 10
    assert all(isinstance(outcome, TooManyGuesses) for outcome in outcomes[10:])
    assert hashed == ["ann"] + ["bob"] * 10
    with pytest.raises(TooManyGuesses) as told:
        await logins.allows("10.0.0.1", basic("bob", "p:ä wörd"))
    assert told.value.wait == 60
    # Who is logged in stays so, and others are not concerned.
    assert await logins.allows("10.0.0.1", basic("ann", "s3cret"))
    assert await logins.allows("10.0.0.2", basic("bob", "p:ä wörd"))
    clock.now += 60
    assert await logins.allows("10.0.0.1", basic("bob", "p:ä wörd"))


async def test_no_password_is_kept(file: Path) -> None:
    logins = Logins(file)
    await logins.allows("10.0.0.1", basic("ann", "s3cret"))
    await logins.allows("10.0.0.1", basic("ann", "wr0ng"))
    kept = repr(vars(logins))
    for secret in "s3cret", "wr0ng", basic("ann", "s3cret"), basic("ann", "wr0ng"):
        assert secret not in kept


async def test_a_change_counts_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    logins = Logins(file)

    async def who() -> list[bool]:
        given = basic("ann", "s3cret"), basic("bob", "p:ä wörd")
        return [await logins.allows("10.0.0.1", each) for each in given]

    def now_holds(text: str | None) -> None:
        if text is None:
            file.unlink()
        else:
            file.write_text(text)

    assert await who() == [True, True]
    now_holds(BOB)
    assert await who() == [False, True]
    # A line that is wrong lets nobody in, and keeps nobody else out.
    now_holds(f"{ANN}\n{BOB[:-1]}\n")
    assert await who() == [True, False]
    assert f"{file}:2: has no hash that is supported" in caplog.text
    now_holds(None)
    assert await who() == await who() == [False, False]
    assert caplog.text.count("cannot be read: No such file or directory") == 1
    now_holds(ANN)
    assert await who() == [True, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ann", 'is not "user:hash"'),
        (":$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L.", 'is not "user:hash"'),
        ("a\x1bnn:{SHA}2PRZAyDhNDqRW2OUFwZQqPNdaSY=", 'is not "user:hash"'),
        ("ann:", "has no hash that is supported"),
        ("ann:s3cret-in-plain", "has no hash that is supported"),
        ("ann:$apr1$GrmhapBL$ETT0lIm3A.BKMrokOzTTW/", "has no hash that is supported"),
        (ANN[:-1], "has no hash that is supported"),
        (ANN + "x", "has no hash that is supported"),
        (ANN.replace("$04$", "$31$"), "has no hash that is supported"),
        (OLD[:-1], "has no hash that is supported"),
        (BOB, "is about a user whom another line names"),
        ("\udcff:x", "is not UTF-8 text"),
    ],
)
def test_a_line_that_is_wrong_stops_the_start(file: Path, tmp_path: Path, line: str, message: str) -> None:
    file.write_bytes(f"{BOB}\n{line}\n".encode(errors="surrogateescape"))
    config = tmp_path / "mirrortap.toml"
    config.write_text(toml({}, {"proxy-users": "users"}))
    with pytest.raises(ConfigError) as error:
        load([config])
    assert str(error.value).startswith(f"{config}: mirrortap.proxy-users: {file}:2: {message}")
    # Somebody's password may be in it.
    assert "s3cret" not in str(error.value)
    assert "$" not in str(error.value)


def test_a_file_without_users_stops_the_start(file: Path, tmp_path: Path) -> None:
    file.write_text("# nobody yet\n")
    config = tmp_path / "mirrortap.toml"
    config.write_text(toml({}, {"proxy-users": str(file)}))
    with pytest.raises(ConfigError, match="names no user, so that nobody can log in"):
        load([config])


def test_what_is_weak_is_told(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "mirrortap.toml"
    config.write_text(toml({}, {"proxy-users": str(file)}))
    (told,) = load([config]).warnings
    assert f"htpasswd -B {file} old" in told
    file.chmod(0o644)
    assert [f"chmod o-r {file}" in told for told in load([config]).warnings] == [True, False]
    assert load([config]).admission.users == file


@given(st.binary(max_size=200))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    users, faults = htpasswd.read(path)
    assert users.users or faults
