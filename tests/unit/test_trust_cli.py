"""`mirrortap trust` as it is typed: where the CA comes from, and what is said of what is wrong."""

from __future__ import annotations

import os
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ruamel.yaml import YAML
from support.tree import snapshot

from addon.cli import main
from ca.trust.certificates import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.certificates import Authority

MANIFEST = "kubernetes --proxy http://p.corp:3128"


class Shell:
    """Runs the command on a scratch root."""

    def __init__(self, folder: Path, ca: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.ca = ca
        self.folder = folder

    def __call__(self, line: str, *, ca: Path | None = None) -> Result:
        """`line` after `mirrortap trust`, with --ca and, for what is put on this machine, --root."""
        args = ["trust", *line.split()]
        if "--data" not in line and "--proxy" not in line.replace(MANIFEST, ""):
            args += ["--ca", str(ca or self.ca)]
        if "kubernetes" not in line and "--root" not in line:
            args += ["--root", str(self.root)]
        return CliRunner().invoke(main, args, env={"COLUMNS": "1000"})

    def refused(self, line: str, says: str, *, ca: Path | None = None) -> None:
        before = snapshot(self.folder)
        result = self(line, ca=ca)
        assert result.exit_code == 2, result.output
        assert says in result.stderr
        assert "Traceback" not in result.output
        assert snapshot(self.folder) == before


@pytest.fixture
def shell(tmp_path: Path, authority: Authority) -> Shell:
    return Shell(tmp_path, authority.file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("windows", "'windows' is no target. There are:\n  system"),
        ("docker --host bad_host", "'bad_host' is not a DNS name"),
        ("docker --host *.corp", "'*.corp' is not a DNS name"),
        ("docker --host 10.0.0.1", "is an IP address"),
        ("docker --host https://ghcr.io", "no registry as in image names"),
        ("docker --host ghcr.io:0", "no registry as in image names"),
        ("docker --host ghcr.io:", "no registry as in image names"),
        ("docker --host index.docker.io", "does not look into certs.d for Docker Hub"),
        ("system --host ghcr.io", "system is for all hosts"),
        ("buildkit --uninstall --host ghcr.io", "one file for all hosts"),
        ("docker --root /no/such/tree", "/no/such/tree: is not a folder"),
        ("docker --output x.yaml", "--output and --image are for"),
        ("kubernetes", "must be told where the proxy is"),
        (f"{MANIFEST} --root /tmp", "puts nothing into a tree"),
        ("docker --proxy https://p.corp:3128", "is not the URL of a proxy"),
        ("docker --proxy http://p.corp", "is not the URL of a proxy"),
        ("docker --proxy http://p.corp:3128/x", "is not the URL of a proxy"),
        ("docker --proxy http://p.corp:99999", "is not the URL of a proxy"),
        ("docker --proxy http://p.corp;id:3128", "is not the URL of a proxy"),
        (f"docker --data {'x' * 300}", "x/ca/ca.crt: the CA cannot be read: File name too long"),
        ("docker --data /no/such/folder", "/no/such/folder/ca/ca.crt: the CA cannot be read: No such file"),
        ("docker --data /no/such/folder", "name the proxy with --proxy"),
        ("system", "no CA store of a known system is here"),
    ],
)
def test_bad_input_is_named_and_nothing_is_changed(shell: Shell, line: str, says: str) -> None:
    shell.refused(line, says)


def test_a_password_is_not_repeated(shell: Shell) -> None:
    result = shell("docker --proxy http://user:s3cret@p.corp:3128")
    assert result.exit_code == 2
    assert "leave the login out" in result.stderr
    assert "s3cret" not in result.output


def test_two_places_for_the_ca_are_one_too_many(shell: Shell) -> None:
    shell.refused(f"docker --data /x --ca {shell.ca}", "leave one out")


def test_only_the_certificate_of_a_ca_will_do(shell: Shell, authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("ghcr.io")
    file = tmp_path / "file.pem"
    for data, says in (
        (b"", "is not a certificate; it must hold the CA's"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a certificate"),
        (pair.cert.read_bytes(), "is not the certificate of a CA"),
        (authority.file.read_bytes() + pair.key.read_bytes(), "holds a private key"),
        (_ended(), "CN=old ended on 2020-01-02"),
    ):
        file.write_bytes(data)
        shell.refused("docker", f"{file}: ", ca=file)
        shell.refused("docker", says, ca=file)
    shell.refused("docker", "the CA cannot be read: No such file", ca=tmp_path / "none.pem")
    shell.refused("docker", "the CA cannot be read: Is a directory", ca=tmp_path)


def _ended() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_text_around_a_certificate_is_left_out(shell: Shell, authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    pem = authority.file.read_bytes()
    file.write_bytes(b"# the CA, twice\n" + pem + pem)
    assert shell("docker --host ghcr.io", ca=file).exit_code == 0
    put = shell.root / "etc/docker/certs.d/ghcr.io/mirrortap.crt"
    assert put.read_bytes() == Bundle.parse(pem, "").pem
    assert put.read_bytes().count(b"BEGIN CERTIFICATE") == 1


def test_while_a_ca_is_rotated_both_are_trusted(shell: Shell, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for step in ["init"], ["rotate"], ["rotate", "--switch"]:
        result = CliRunner().invoke(main, ["ca", *step, "--data", str(data)])
        assert result.exit_code == 0, result.output
        both = {pem.read_bytes() for pem in (data / "ca").glob("*.crt") if pem.stem in ("ca", "next", "old")}
        assert shell(f"docker --host ghcr.io --data {data}").exit_code == 0
        put = (shell.root / "etc/docker/certs.d/ghcr.io/mirrortap.crt").read_bytes()
        assert {*Bundle.parse(put, "").pems} == {*Bundle.parse(b"".join(both), "").pems}
        assert put.count(b"BEGIN CERTIFICATE") == len(both) == (1 if step == ["init"] else 2)


def test_all_public_registries_unless_told_which(shell: Shell) -> None:
    assert shell("podman").exit_code == 0
    hosts = {path.name for path in (shell.root / "etc/containers/certs.d").iterdir()}
    assert {"docker.io", "ghcr.io", "quay.io"} <= hosts
    assert "registry-1.docker.io" not in hosts
    assert shell("docker").exit_code == 0
    assert {path.name for path in (shell.root / "etc/docker/certs.d").iterdir()} == hosts - {"docker.io"}


def test_docker_hub_has_one_name(shell: Shell) -> None:
    assert shell("skopeo --host registry-1.docker.io --host Docker.IO").exit_code == 0
    assert [path.name for path in (shell.root / "etc/containers/certs.d").iterdir()] == ["docker.io"]


@pytest.fixture
def pem(authority: Authority) -> bytes:
    return authority.file.read_bytes()


@pytest.fixture
def nobodys_home() -> Iterator[Path]:
    """Of a user other than root, who this process is meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        home, user = Path(folder), os.geteuid()
        if user == 0:
            os.chown(home, 65534, 65534)
            os.seteuid(65534)
        yield home
        os.seteuid(user)


def test_a_user_has_it_for_himself(pem: bytes, nobodys_home: Path) -> None:
    ca = nobodys_home / "ca.crt"
    ca.write_bytes(pem)
    before = snapshot(nobodys_home)
    env = {"HOME": str(nobodys_home)}
    for line in "podman --host ghcr.io", "buildkit --host ghcr.io":
        done = CliRunner().invoke(main, ["trust", *line.split(), "--ca", str(ca)], env=env)
        assert done.exit_code == 0, done.output
    put = nobodys_home / ".config/containers/certs.d/ghcr.io/mirrortap.crt"
    assert put.read_bytes() == ca.read_bytes()
    assert (
        str(nobodys_home / ".config/mirrortap/mirrortap.crt")
        in (nobodys_home / ".config/mirrortap/buildkitd.toml").read_text()
    )
    for target in "podman", "buildkit":
        done = CliRunner().invoke(main, ["trust", target, "--uninstall"], env=env)
        assert done.exit_code == 0, done.output
    assert snapshot(nobodys_home) == before


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = self.server.pages.get(self.path, b"")  # type: ignore[attr-defined]
        self.send_response(200 if answer else 404)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(authority: Authority) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.pages = {"/ca.crt": authority.file.read_bytes()}  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_ca_from_the_proxy_and_its_fingerprint(
    shell: Shell, proxy: str, authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the proxy is asked itself, not through another
    (right,) = Bundle.parse(authority.file.read_bytes(), "").fingerprints
    (wrong,) = Bundle.parse(stranger.file.read_bytes(), "").fingerprints
    shell.refused(f"docker --proxy {proxy} --fingerprint {wrong}", "is not the CA with the fingerprint")
    done = shell(f"docker --host ghcr.io --proxy {proxy}")
    assert done.exit_code == 0
    assert f"SHA-256 {right}" in done.stderr
    assert "Compare that" in done.stderr
    assert f"HTTPS_PROXY={proxy}" in done.stdout
    assert (shell.root / "etc/docker/certs.d/ghcr.io/mirrortap.crt").read_bytes() == authority.file.read_bytes()
    assert shell(f"docker --proxy {proxy} --fingerprint {right.replace(':', '').lower()}").exit_code == 0


def test_a_proxy_that_is_none(shell: Shell, proxy: str) -> None:
    shell.refused("docker --proxy http://127.0.0.1:1", "http://127.0.0.1:1/ca.crt: the CA cannot be fetched: ")
    shell.refused("docker --proxy http://no-such.invalid:3128", "is the proxy running there?")


def test_a_manifest_goes_where_it_is_wanted_and_over_nothing(shell: Shell, tmp_path: Path) -> None:
    printed = shell(MANIFEST)
    assert len(list(YAML(typ="safe").load_all(printed.stdout))) == 2
    assert "kubectl apply" in printed.stderr

    file = tmp_path / "trust.yaml"
    assert f"would write: {file}" in shell(f"{MANIFEST} --dry-run --output {file}").stderr
    assert not file.exists()
    assert f"kubectl apply -f {file}" in shell(f"{MANIFEST} --output {file}").stderr
    assert file.read_text() == printed.stdout
    assert "already there" in shell(f"{MANIFEST} --output {file}").stderr
    shell.refused(f"{MANIFEST} --image other --output {file}", "choose another --output")
    assert shell(f"{MANIFEST} --image other --output {file} --force").exit_code == 0
    shell.refused(f"{MANIFEST} --output {tmp_path}/none/x.yaml", "cannot be written: No such file")


def test_undoing_needs_no_ca(shell: Shell) -> None:
    before = snapshot(shell.folder)
    assert shell("docker").exit_code == 0
    done = CliRunner().invoke(main, ["trust", "docker", "--uninstall", "--root", str(shell.root)])
    assert done.exit_code == 0, done.output
    assert snapshot(shell.folder) == before
    assert "Nothing to undo" in shell("docker --uninstall").stdout


@pytest.mark.parametrize("target", ["kubernetes", "github-actions"])
def test_what_was_put_elsewhere_is_undone_there(target: str) -> None:
    done = CliRunner().invoke(main, ["trust", target, "--uninstall"])
    assert done.exit_code == 0, done.output
    assert "rm " in done.output
