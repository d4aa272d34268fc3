"""The proxy's own credentials while it runs: files that change, helper programs that do what they should not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support.helper import NOT_FOUND, CredentialHelper, jwt

from addon.config.login import IdentityToken, Password, RegistryToken
from addon.config.model import Auth, Secret
from addon.upstream import credentials, helpers
from addon.upstream.credentials import Credentials, LoginRefused
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "s3cret-Value"
EVERYWHERE = LoginRefused(None)


@pytest.fixture(autouse=True)
async def begin_tasks_at_once() -> None:
    """As mitmproxy's loop does: what ends without waiting for anything has ended when it has been started."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


@pytest.fixture
async def held() -> AsyncIterator[Credentials]:
    found = Credentials()
    yield found
    await found.close()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialHelper:
    helper = CredentialHelper(tmp_path / "bin")
    helper.on_path(monkeypatch)
    return helper


@pytest.fixture
def helped(tmp_path: Path, helper: CredentialHelper) -> Auth:
    """A credential that the helper knows."""
    return Auth("m.io", docker_config=helper.config(tmp_path / "config.json", "m.io"))


class Clock:
    """Stands for `time` in credentials.py, where seconds pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(credentials, "time", SimpleNamespace(time=clock.time, monotonic=clock.monotonic))
    return clock


async def problem(held: Credentials, auth: Auth) -> str:
    with pytest.raises(EndpointError) as raised:
        await held.of(auth, "app")
    assert raised.value.status is None
    assert SECRET not in str(raised.value)
    return str(raised.value)


# --- files ---


async def test_a_file_is_read_anew(held: Credentials, tmp_path: Path) -> None:
    file, new = tmp_path / "token", tmp_path / "new"
    auth = Auth("m.io", token=Secret(file))
    for name, content in (file, "one\n"), (new, "two"), (file, "three\r\n"):
        name.write_text(content)
        name.chmod(0o600)
        if name == new:
            new.replace(file)
        assert await held.of(auth, "app") == RegistryToken(content.strip())
    file.chmod(0o644)
    assert "chmod o= " in await problem(held, auth)
    file.unlink()
    assert await problem(held, auth) == (
        f"the credential for m.io (from {file}) cannot be had: "
        f"{file}: there is no such file; create it, or correct the path"
    )


async def test_an_environment_variable(held: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = Auth("m.io", "u", Secret(env="THE_SECRET"))
    assert "THE_SECRET is not set" in await problem(held, auth)
    monkeypatch.setenv("THE_SECRET", SECRET)
    assert await held.of(auth, "app") == Password("u", SECRET)


async def test_a_config_json_that_loses_the_entry(held: Credentials, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    auth = Auth("m.io", docker_config=file)
    file.write_text(json.dumps({"auths": {"m.io": {"username": "u", "password": SECRET}}}))
    file.chmod(0o600)
    assert await held.of(auth, "app") == Password("u", SECRET)
    file.write_text('{"auths": {}}')
    assert f"{file} has no credential for m.io" in await problem(held, auth)
    file.write_text(f'{{"auths": {SECRET}')
    assert f"{file} is not valid JSON" in await problem(held, auth)


# --- refused ---


async def test_what_was_refused_is_not_tried_again_for_a_while(
    held: Credentials, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("wrong")
    file.chmod(0o600)
    auth = Auth("m.io", "u", Secret(file))
    login = await held.of(auth, "app")
    for _ in range(3):
        with pytest.raises(EndpointError) as raised:
            await held.instead(auth, login, EVERYWHERE)
        assert str(raised.value) == f"the credential for m.io (from {file}) was refused"
        assert raised.value.status == 401
    clock.now += 59
    for name in "app", "other":
        with pytest.raises(EndpointError, match="was refused"):
            await held.of(auth, name)
    assert len(caplog.messages) == 1
    clock.now += 2
    assert await held.of(auth, "app") == login
    with pytest.raises(EndpointError):
        await held.instead(auth, login, LoginRefused("app"))
    assert await held.of(auth, "other") == login, "it was refused for one repository alone"
    file.write_text("right")
    assert await held.of(auth, "app") == Password("u", "right")


async def test_one_that_has_changed_by_then_is_tried_at_once(held: Credentials, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("new")
    file.chmod(0o600)
    auth = Auth("m.io", "u", Secret(file))
    assert await held.instead(auth, Password("u", "old"), EVERYWHERE) == Password("u", "new")


# --- helpers ---


async def test_a_helper_is_asked_once_for_many(
    held: Credentials, helped: Auth, helper: CredentialHelper, clock: Clock
) -> None:
    helper.gives("AWS", SECRET)
    found = await asyncio.gather(*(held.of(helped, f"app-{number}") for number in range(20)))
    assert set(found) == {Password("AWS", SECRET)}
    clock.now += 590
    await held.of(helped, "app")
    assert helper.runs == ["get m.io"]
    helper.gives("<token>", SECRET)
    clock.now += 20
    assert await held.of(helped, "app") == IdentityToken(SECRET)
    assert helper.runs == ["get m.io"] * 2


async def test_docker_hub_has_its_own_name_there(held: Credentials, helper: CredentialHelper, tmp_path: Path) -> None:
    helper.gives("u", SECRET)
    auth = Auth("docker.io", docker_config=helper.config(tmp_path / "config.json", "docker.io"))
    assert await held.of(auth, "app") == Password("u", SECRET)
    assert helper.runs == ["get https://index.docker.io/v1/"]


async def test_a_secret_that_says_when_it_ends_is_renewed_before(
    held: Credentials, helped: Auth, helper: CredentialHelper, clock: Clock
) -> None:
    helper.gives("<token>", jwt({"exp": clock.now + 200}))
    for later, runs in (0, 1), (130, 1), (20, 2):
        clock.now += later
        await held.of(helped, "app")
        assert len(helper.runs) == runs


async def test_a_refused_secret_is_asked_for_anew_at_once(
    held: Credentials, helped: Auth, helper: CredentialHelper, clock: Clock
) -> None:
    helper.gives("u", "old")
    login = await held.of(helped, "app")
    clock.now += 11
    helper.gives("u", "new")
    renewed = await asyncio.gather(*(held.instead(helped, login, EVERYWHERE) for _ in range(5)))
    assert set(renewed) == {Password("u", "new")}
    assert len(helper.runs) == 2
    # What it has just said it will say again.
    for name, later, runs in ("one", 0, 2), ("two", 9, 2), ("three", 2, 3):
        clock.now += later
        with pytest.raises(EndpointError, match="was refused"):
            await held.instead(helped, renewed[0], LoginRefused(name))
        assert len(helper.runs) == runs
    with pytest.raises(EndpointError, match="was refused"):
        await held.of(helped, "two")
    assert await held.of(helped, "four") == renewed[0]
    assert len(helper.runs) == 3


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        (SECRET, 0, "wrote something that is not JSON"),
        (f'{{"Secret": "{SECRET}"}}', 0, "wrote JSON without Username and Secret"),
        (SECRET, 3, "ended with exit code 3"),
        (f"{NOT_FOUND}\n", 1, "knows no credential for it: log in"),
        (SECRET * 10_000, 0, "wrote more than 65536 bytes, and was killed"),
    ],
)
async def test_what_a_helper_may_do_wrong(
    output: str, code: int, told: str, held: Credentials, helped: Auth, helper: CredentialHelper, clock: Clock
) -> None:
    helper.says(output, code)
    whole = f"the credential for m.io (from {helped.docker_config}) cannot be had: docker-credential-test {told}"
    assert await problem(held, helped) == whole
    # It is left alone for a while.
    helper.gives("u", SECRET)
    clock.now += 29
    assert await problem(held, helped) == whole
    assert len(helper.runs) == 1
    clock.now += 2
    assert await held.of(helped, "app") == Password("u", SECRET)


async def test_a_helper_that_hangs_is_killed_with_what_it_has_started(
    held: Credentials, helped: Auth, helper: CredentialHelper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(helpers, "_PATIENCE", 1.0)
    helper.script(f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/itself; wait")
    assert "docker-credential-test did not answer within 1 s, and was killed" in await problem(held, helped)
    async with asyncio.timeout(10):
        while any(runs(int((tmp_path / name).read_text())) for name in ("child", "itself")):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


def runs(process: int) -> bool:
    """Whether it is neither gone nor a zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_closing_ends_a_helper(helped: Auth, helper: CredentialHelper, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "up")
    helper.script(f"echo $$ > {tmp_path}/up; exec sleep 1000")
    held = Credentials()
    asking = asyncio.create_task(held.of(helped, "app"))
    process = int(await asyncio.to_thread((tmp_path / "up").read_text))
    await held.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    with pytest.raises(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


async def test_who_stops_asking_does_not_stop_the_helper(
    held: Credentials, helped: Auth, helper: CredentialHelper, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "up")
    os.mkfifo(tmp_path / "go")
    helper.script(f"echo > {tmp_path}/up; read x < {tmp_path}/go; " + """echo '{"Username": "u", "Secret": "p"}'""")
    first, second = (asyncio.create_task(held.of(helped, name)) for name in ("one", "two"))
    await asyncio.to_thread((tmp_path / "up").read_text)
    first.cancel()
    await asyncio.to_thread((tmp_path / "go").write_text, "\n")
    assert await second == Password("u", "p")
    assert len(helper.runs) == 1


async def test_a_helper_that_is_not_there(held: Credentials, helped: Auth, helper: CredentialHelper) -> None:
    helper.program.unlink()
    assert "docker-credential-test is not on PATH: install it" in await problem(held, helped)


async def test_a_helper_that_cannot_be_run(held: Credentials, helped: Auth, helper: CredentialHelper) -> None:
    helper.program.write_bytes(b"\x7fELF")
    assert "docker-credential-test cannot be started: Exec format error" in await problem(held, helped)


async def test_a_helper_that_does_not_read(held: Credentials, helped: Auth, helper: CredentialHelper) -> None:
    helper.program.write_text("""#!/bin/sh\nexec 0<&-; echo '{"Username": "u", "Secret": "p"}'""")
    assert await held.of(helped, "app") == Password("u", "p")
