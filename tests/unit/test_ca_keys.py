"""Root keys that are not at hand: elsewhere, or encrypted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from support.verifiers import handshake

from ca import clock
from ca.authority import Authority, AuthorityError, subtrees
from ca.files import KeyIsEncrypted
from ca.holding import KeyPlace
from ca.lives import Lives
from ca.making import init
from ca.renewing import renew

if TYPE_CHECKING:
    from pathlib import Path

NAMES = subtrees(["docker.io", "ghcr.io"])
OTHERS = subtrees(["quay.io"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture(params=["elsewhere", "encrypted", "both"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> KeyPlace:
    file = None if request.param == "encrypted" else tmp_path / "root.key"
    return KeyPlace(file, None if request.param == "elsewhere" else b"correct horse")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_proxy_runs_without_it(folder: Path, place: KeyPlace) -> None:
    made = init(folder, NAMES, Lives(), place)
    path = place.file or folder / "ca.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) is bool(place.passphrase)
    assert (folder / "ca.key").exists() is (place.file is None)
    key = serialization.load_pem_private_key(path.read_bytes(), place.passphrase)
    assert key.public_key() == made.root.public_key()
    before = content(folder)
    proxy = Authority.open(folder, NAMES)
    assert (proxy.root, proxy.created, proxy.warnings) == (made.root, False, ())
    handshake(folder / "ca.crt", proxy.leaf("ghcr.io"), "ghcr.io")
    assert content(folder) == before


def test_a_new_host_needs_it_and_says_how(folder: Path, place: KeyPlace) -> None:
    init(folder, NAMES, Lives(), place)
    before = content(folder)
    remedy = (
        r"with --root-key FILE$" if place.file else rf"the passphrase of {folder}/ca.key or takes --passphrase-file"
    )
    with pytest.raises(
        AuthorityError, match=r"intermediate.crt does not permit quay.io, .* mirrortap ca renew .*" + remedy
    ):
        Authority.open(folder, OTHERS)
    assert content(folder) == before
    renew(folder, OTHERS, Lives(), place, keep=False)
    handshake(folder / "ca.crt", Authority.open(folder, OTHERS).leaf("quay.io"), "quay.io")


def test_renewal(folder: Path, place: KeyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(clock, "_system", lambda: now)
    first = init(folder, NAMES, Lives(), place)
    later = now + timedelta(days=350)
    monkeypatch.setattr(clock, "_system", lambda: later)
    (warning,) = Authority.open(folder, NAMES).warnings
    assert "(in 15 days)" in warning
    assert ("is encrypted; run mirrortap ca renew" in warning) is (place.file is None)
    again = renew(folder, OTHERS, Lives(), place, keep=True)
    assert again.root == first.root
    assert again.permitted == NAMES
    proxy = Authority.open(folder, NAMES)
    assert proxy.warnings == ()
    assert proxy.intermediate.not_valid_after_utc == later + timedelta(days=365)


def test_wrong_and_missing_keys(folder: Path, place: KeyPlace, tmp_path: Path) -> None:
    init(folder, NAMES, Lives(), place)
    init(tmp_path / "other", NAMES, Lives(), KeyPlace(tmp_path / "other.key"))
    before = content(folder)
    path = place.file or folder / "ca.key"
    attempts: list[tuple[KeyPlace, str]] = [
        (
            KeyPlace(tmp_path / "other.key"),
            f"^{tmp_path}/other.key is not the key of {folder}/ca.crt; name the right file$",
        ),
        (KeyPlace(folder / "ca.crt"), r"open to other users; chmod 600"),
    ]
    if place.passphrase:
        attempts.append((KeyPlace(path, b"wrong"), f"^that is not the passphrase of private key {path}, or the file"))
        with pytest.raises(KeyIsEncrypted):
            renew(folder, NAMES, Lives(), KeyPlace(place.file), keep=False)
    else:
        attempts.append(
            (KeyPlace(), r"is to be issued anew, and issuing another needs the root key; put \S+/ca.key back")
        )
    for attempt, told in attempts:
        with pytest.raises(AuthorityError, match=told):
            renew(folder, NAMES, Lives(), attempt, keep=False)
    path.chmod(0o640)
    with pytest.raises(AuthorityError, match=f"^private key {path} is open to other users; chmod 600 {path}$"):
        renew(folder, NAMES, Lives(), place, keep=False)
    assert content(folder) == before


def test_a_passphrase_is_not_shown() -> None:
    assert "correct horse" not in repr(KeyPlace(None, b"correct horse"))


def test_init_where_there_is_something(folder: Path, tmp_path: Path) -> None:
    made = Authority.open(folder, NAMES)
    before = content(folder)
    with pytest.raises(AuthorityError, match=f"there is a CA already \\(root {made.fingerprint}\\); mirrortap ca show"):
        init(folder, NAMES, Lives(), KeyPlace(tmp_path / "root.key"))
    assert content(folder) == before
    assert not (tmp_path / "root.key").exists()

    precious = tmp_path / "precious"
    precious.write_text("not a key")
    new = tmp_path / "new"
    for path, told in (
        (precious, "precious is there already; name a file that is not"),
        (new / "root.key", "root.key is in the CA's folder; leave out --root-key"),
        (tmp_path / "absent" / "root.key", "cannot be written: No such file or directory; name another file"),
    ):
        with pytest.raises(AuthorityError, match=told):
            init(new, NAMES, Lives(), KeyPlace(path))
        assert [path.name for path in new.iterdir()] == [".lock"]
    assert precious.read_text() == "not a key"


def test_a_root_that_could_not_be_written_is_no_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made in vain must not be in the way of the next start."""

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("ca.files.write_certificates", full)
        with pytest.raises(AuthorityError, match="No space left on device"):
            Authority.open(folder, NAMES)
    assert Authority.open(folder, NAMES).created
