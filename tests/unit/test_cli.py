"""The command line: one message and exit code 2 for whatever cannot start, and nothing left listening."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.processes import clean_env, connectable, run

from addon.cli import main
from addon.commands.serve import serve_command

REPOSITORY = Path(__file__).parents[2]


def invoke(tmp_path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["serve", "--data", str(tmp_path / "data"), *options])


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
    return port


def refused(tmp_path: Path, *options: str) -> str:
    """The only line."""
    port = free_port()
    result = invoke(tmp_path, "--listen", f"127.0.0.1:{port}", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not connectable(("127.0.0.1", port))
    (line,) = result.stderr.splitlines()
    return line


def test_a_bad_config(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text('[registry."docker.io"]\nmirors = []\n')
    line = refused(tmp_path, "--config", str(config))
    assert line == f'mirrortap: {config}: registry."docker.io".mirors: unknown key; did you mean mirrors?'
    assert not (tmp_path / "data").exists()


def test_a_missing_config(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    line = refused(tmp_path, "--config", str(absent))
    assert line == f"mirrortap: {absent}: there is no such file; check the path given to --config"
    empty = tmp_path / "certs.d"
    empty.mkdir()
    assert refused(tmp_path, "--config", str(empty)).startswith(f"mirrortap: {empty}: has no folder that is named like")


def test_a_parent_proxy_that_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    itself = "where this mirrortap itself listens: in its environment"
    for variable, url, said in (
        ("HTTPS_PROXY", "http://u:s3cret@127.0.0.1:{}", f"names 127.0.0.1:{{}}, {itself}"),
        ("http_proxy", "u:s3cret@localhost:{}", f"names localhost:{{}}, {itself}"),
        ("ALL_PROXY", "socks5://u:s3cret@proxy.test:{}", "names a SOCKS proxy, and mirrortap"),
        ("HTTPS_PROXY", "http://u:s3cret/@proxy.test:{}", "is not http://[USER:PASSWORD@]HOST[:PORT]"),
    ):
        port = free_port()
        with monkeypatch.context() as patch:
            patch.setenv(variable, url.format(port))
            result = invoke(tmp_path / str(port), "--listen", f"127.0.0.1:{port}")
        assert result.exit_code == 2
        assert result.output.startswith(f"mirrortap: {variable}: {said.format(port)}")
        assert len(result.output.splitlines()) == 1
        assert "s3cret" not in result.output
        assert not connectable(("127.0.0.1", port))


def test_a_data_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "data: cannot be written: File exists; choose another folder with --data" in refused(tmp_path)


@pytest.mark.parametrize(
    "listen", ["nonsense", "", "3128", "127.0.0.1", "h:", "h:x", "h:-1", "h:65536", "h:1.0", "h:\u0661"]
)
def test_a_bad_address(tmp_path: Path, listen: str) -> None:
    result = invoke(tmp_path, "--listen", listen)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = [line for line in result.stderr.splitlines() if "Error" in line]
    assert f"Invalid value for '--listen': {listen!r} is not HOST:PORT, like 127.0.0.1:3128" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "listen",
    [
        "h:" + "9" * 5000,
        "fe80::1",
        "[::1:3128",
    ],
    ids=["long", "ipv6 without brackets", "one bracket"],
)
def test_an_address_that_is_none(listen: str) -> None:
    # Converted only: a start would listen there.
    (option,) = [each for each in serve_command.params if each.name == "listen"]
    with pytest.raises(click.BadParameter):
        option.type.convert(listen, option, None)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:3128", ("127.0.0.1", 3128)),
        (":0", ("", 0)),
        ("[::1]:5", ("::1", 5)),
        ("proxy.lan:80", ("proxy.lan", 80)),
    ],
)
def test_a_good_address(listen: str, expected: tuple[str, int]) -> None:
    (option,) = [each for each in serve_command.params if each.name == "listen"]
    assert option.type.convert(listen, option, None) == expected


@pytest.mark.parametrize("workers", ["0", "-1", "257", "two", "1.5", ""])
def test_a_bad_number_of_workers(tmp_path: Path, workers: str) -> None:
    result = invoke(tmp_path, "--workers", workers)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = [line for line in result.stderr.splitlines() if "Error" in line]
    assert re.search(r"Invalid value for '--workers': .* is not (a valid integer|in the range 1<=x<=256)", line)
    assert not (tmp_path / "data").exists()


def test_a_mode_that_nobody_can_log_in_with(tmp_path: Path) -> None:
    config = tmp_path / "mirrortap.toml"
    config.write_text('[mirrortap]\nproxy-users = "users"\n')
    (tmp_path / "users").write_text("ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L.\n")
    (tmp_path / "users").chmod(0o600)
    line = refused(tmp_path, "--config", str(config), "--mode", "transparent")
    assert line.startswith(f"mirrortap: mirrortap.proxy-users ({tmp_path / 'users'}): nobody can be asked to log in")
    assert line.endswith("take it out and limit allow-clients, or use --mode regular or socks5")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--mirror-listen", "127.0.0.1:0", "--mirror-tls", "mirror.test"),
        ("--mirror-listen", "127.0.0.1:0", "--mode", "socks5"),
    ],
)
def test_redirects_without_a_door_for_them(options: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "mirrortap.toml"
    config.write_text('[registry."quay.io"]\nredirect = "public"\n')
    line = refused(tmp_path, "--config", str(config), *options)
    assert line == (
        f'mirrortap: {config}: registry."quay.io".redirect: "public" sends clients of mirrortap serve on to its mirror'
        " door over plain http: start it with --mirror-listen HOST:PORT, without --mirror-tls and in --mode regular, or"
        " take redirect out"
    )


def test_a_mode_that_there_is_not(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--mode", "upstream")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'upstream' is not one of 'regular', 'transparent', 'socks5'" in result.stderr


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--lisen", "x")
    assert result.exit_code == 2
    assert "Did you mean" in result.stderr


def test_help_and_version() -> None:
    for option in ("--help", "-h"):
        assert "serve" in CliRunner().invoke(main, [option]).stdout
    assert version("mirrortap") in CliRunner().invoke(main, ["--version"]).stdout


def test_a_port_in_use(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--data", str(tmp_path / "data"), "--listen", address]
        argv = [sys.executable, "-m", "addon.cli", "serve", *options]
        env = clean_env(tmp_path / "home")
        ended = run(argv, env=env, cwd=REPOSITORY, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"mirrortap: {address}: cannot be listened on: ")
    assert line.endswith("ddress already in use; choose another address with --listen")


@pytest.mark.parametrize("name", ["10.0.0.7", "::1", "*.mirror.test", "mirror_test", ""])
def test_a_mirror_name_that_no_certificate_can_be_for(tmp_path: Path, name: str) -> None:
    result = invoke(tmp_path, "--mirror-listen", "127.0.0.1:0", "--mirror-tls", name)
    assert (result.exit_code, result.stdout) == (2, "")
    said = " ".join(result.stderr.split())
    assert "Invalid value for '--mirror-tls': " in said
    assert "no certificate of this CA can be for an address" in said
    assert not (tmp_path / "data").exists()


def test_a_mirror_name_without_a_mirror(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--mirror-tls", "mirror.test")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--mirror-tls is about the port of --mirror-listen: give that, too" in result.stderr


def test_a_mirror_port_in_use(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(tmp_path, "--mirror-listen", address)
    assert line.startswith(f"mirrortap: {address}: cannot be listened on: ")
    assert line.endswith("; choose another address with --mirror-listen")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("config show --config", 2, "cannot be read: File name too long"),
        ("cache ls --data", 2, "File name too long"),
        ("ca show --data", 2, "File name too long"),
        ("doctor --json --proxy http://127.0.0.1:9 --data", 1, "is not there: run this on the proxy's machine"),
    ],
)
def test_what_cannot_even_be_looked_at_is_named(command: str, code: int, told: str) -> None:
    """As in a folder that is closed to this user, which none is to root."""
    result = CliRunner().invoke(main, [*command.split(), "x" * 300])
    assert result.exit_code == code, result.exception
    assert told in result.output
