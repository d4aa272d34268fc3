"""The command with standard streams that are closed, full or without a reader, and with signals that end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.cached import Data
from support.images import make_image

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "addon.cli")
# Signals, which whoever runs the tests may have ignored, as nohup does.
HEEDING = ("env", "--default-signal")
ALPINE = "docker.io/library/alpine:3.20"


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is for users: what is written is tried last when Python ends."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("streams")
    data = Data(folder / "data")
    # More than a pipe and a tar's buffer take.
    data.pull(ALPINE, make_image(folder / "image", layer_sizes=(3_000_000,)))
    return data


def run(redirected: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """By a shell that redirects its streams."""
    argv = ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def test_without_any_streams_all_is_done(data: Data, tmp_path: Path) -> None:
    result = run("<&- >&- 2>&-", "cache", "export", "-o", tmp_path / "all.tar", "--data", data.folder)
    assert result.returncode == 0
    # No file of the program had the number of a stream.
    assert b"exported" not in (tmp_path / "all.tar").read_bytes()
    assert run("< /dev/null >&-", "cache", "ls", "--data", data.folder).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["cache ls", "config show"])
def test_a_full_disk_behind_standard_output_is_told_from_one_of_the_cache(
    data: Data, command: str, unbuffered: str
) -> None:
    arguments = command.split() + (["--data", str(data.folder)] if command == "cache ls" else [])
    result = run("> /dev/full", *arguments, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode in (1, 2)
    assert result.stderr == "mirrortap: standard output: No space left on device\n"


@pytest.mark.parametrize("command", [["ls"], ["export", "-o", "-"]])
def test_a_reader_that_goes_is_no_news(data: Data, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as out:
        argv = [*COMMAND, "cache", *command, "--data", str(data.folder)]
        result = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, timeout=60)
    assert (result.returncode, result.stderr) == (1, b"")


def test_names_that_are_not_utf_8_can_be_shown(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"byte\xff")
    folder.symlink_to(data.folder)
    result = run("", "ca", "init", "--data", folder, PYTHONIOENCODING="utf-8:strict")
    assert result.stdout.startswith(f"Made a CA in {tmp_path}/byte\\udcff/ca\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_export_though_nobody_reads(data: Data, number: signal.Signals) -> None:
    argv = [*HEEDING, *COMMAND, "cache", "export", "-o", "-", "--data", str(data.folder)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    try:
        # It is at it, and waits for the rest to be read.
        assert process.stdout.read(1)
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_signal_leaves_nothing_unfinished(data: Data, tmp_path: Path) -> None:
    """The import reads from a pipe."""
    argv = [*HEEDING, *COMMAND, "cache", "import", "-", "--data", str(tmp_path / "other")]
    archive = run(f"> {tmp_path}/all.tar", "cache", "export", "-o", "-", "--data", data.folder)
    assert archive.returncode == 0
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin
    try:
        # More than the pipe holds: what is written has been read, and is in files by now.
        process.stdin.write((tmp_path / "all.tar").read_bytes()[:2_500_000])
        process.stdin.flush()
        process.send_signal(signal.SIGTERM)
        # Python sees the signal when it comes back from reading.
        process.stdin.close()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    other = Data(tmp_path / "other")
    assert other.held() == set()
    assert list((other.cache_folder / "partial").iterdir()) == []


def test_a_proxy_greets_nobody(tmp_path: Path) -> None:
    """It serves all the same, and systemd hears of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, open("/dev/full", "w") as full:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(60)
        argv = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = subprocess.Popen(argv, stdout=full, stderr=subprocess.PIPE, env=environment)
        try:
            assert told.recv(100) == b"READY=1"
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, said) == (0, b"")
