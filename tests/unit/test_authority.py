"""The authority's files, its refusals, and what real verifiers make of its certificates."""

import ipaddress
import os
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.verifiers import handshake, openssl_verify

from ca import clock as clock_module
from ca.authority import Authority, AuthorityError, Leaf, dns_name, subtrees, within

NAMES = ("docker.io", "ghcr.io", "localhost")
PEM = serialization.Encoding.PEM
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


def stored(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def forge(
    folder: Path,
    name: x509.GeneralName,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ca: bool = False,
    issuer: Leaf | None = None,
) -> Leaf:
    """What a thief of intermediate.key would make: a certificate for any name, signed with that key."""
    if issuer is None:
        signer = stored(folder / "intermediate.crt")
        signer_key = serialization.load_pem_private_key((folder / "intermediate.key").read_bytes(), None)
        assert isinstance(signer_key, ec.EllipticCurvePrivateKey)
        chain: tuple[x509.Certificate, ...] = (signer,)
    else:
        signer, signer_key, chain = issuer.certificate, issuer.key, (issuer.certificate, *issuer.chain)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca, None), True),
        (x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName([name]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            False,
        ),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "thief")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Leaf("forged", builder.sign(signer_key, hashes.SHA256()), key, chain)


# --- what verifiers say ---


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "GHCR.io", "localhost"])
def test_good_leaf_is_accepted(folder: Path, host: str) -> None:
    leaf = Authority.open(folder, NAMES).leaf(host)
    assert openssl_verify(folder / "ca.crt", leaf) == ""
    handshake(folder / "ca.crt", leaf, host.lower())


def test_longest_host_is_accepted(folder: Path) -> None:
    host = ".".join(["a" * 63] * 3 + ["b" * 51, "docker.io"])
    assert len(host) == 253
    handshake(folder / "ca.crt", Authority.open(folder, NAMES).leaf(host), host)


def test_leaf_is_for_its_own_host_only(folder: Path) -> None:
    leaf = Authority.open(folder, NAMES).leaf("docker.io")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(folder / "ca.crt", leaf, "ghcr.io")


STOLEN = [
    (x509.DNSName("example.com"), "example.com", "permitted subtree violation"),
    (x509.DNSName("notdocker.io"), "notdocker.io", "permitted subtree violation"),
    (x509.DNSName("*.example.com"), "a.example.com", "permitted subtree violation"),
    (x509.IPAddress(ipaddress.ip_address("192.0.2.1")), "192.0.2.1", "excluded subtree violation"),
    (x509.IPAddress(ipaddress.ip_address("2001:db8::1")), "2001:db8::1", "excluded subtree violation"),
]


@pytest.mark.parametrize(("name", "host", "complaint"), STOLEN, ids=[row[1] for row in STOLEN])
def test_stolen_intermediate_key_is_worthless_for_other_names(
    folder: Path, name: x509.GeneralName, host: str, complaint: str
) -> None:
    Authority.open(folder, NAMES)
    leaf = forge(folder, name)
    assert complaint in openssl_verify(folder / "ca.crt", leaf)
    with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
        handshake(folder / "ca.crt", leaf, host)


def test_forged_leaf_for_a_permitted_name_is_accepted(folder: Path) -> None:
    """The control for the refusals above: nothing but the name is wrong with what forge() makes."""
    Authority.open(folder, NAMES)
    leaf = forge(folder, x509.DNSName("quay.docker.io"))
    assert openssl_verify(folder / "ca.crt", leaf) == ""
    handshake(folder / "ca.crt", leaf, "quay.docker.io")


def test_stolen_intermediate_key_makes_no_ca_and_no_client(folder: Path) -> None:
    Authority.open(folder, NAMES)
    below = forge(folder, x509.DNSName("docker.io"), ca=True)
    leaf = forge(folder, x509.DNSName("docker.io"), issuer=below)
    assert "path length constraint exceeded" in openssl_verify(folder / "ca.crt", leaf)
    client = forge(folder, x509.DNSName("docker.io"), ExtendedKeyUsageOID.CLIENT_AUTH)
    assert "unsuitable certificate purpose" in openssl_verify(folder / "ca.crt", client, "sslclient")


# --- what is in the certificates and files ---


def test_certificates_hold_what_they_should(folder: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    made = Authority.open(folder, ["Sub.ghcr.io", "ghcr.io", "docker.io"])
    leaf = made.leaf("ghcr.io")
    intermediate = stored(folder / "intermediate.crt")
    lives = ((made.root, 3650), (intermediate, 365), (leaf.certificate, 7))
    for certificate, days in lives:
        skew = before - certificate.not_valid_before_utc
        assert timedelta(minutes=59) < skew <= timedelta(hours=1)
        assert abs(certificate.not_valid_after_utc - before - timedelta(days=days)) < timedelta(minutes=1)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert leaf.not_after == leaf.certificate.not_valid_after_utc
    assert leaf.chain == (intermediate,)
    assert leaf.key.public_key() == leaf.certificate.public_key()

    lengths = []
    for certificate, _ in lives:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert basic.critical
        assert usage.critical
        assert usage.value.key_cert_sign is usage.value.crl_sign is basic.value.ca
        assert usage.value.digital_signature is not basic.value.ca
        lengths.append(basic.value.path_length)
    assert lengths == [1, 0, None]

    constraints = intermediate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName("docker.io"), x509.DNSName("ghcr.io")]
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("ghcr.io")]
    purposes = leaf.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_root_is_told_apart_by_host_and_date(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "builder-" + "x" * 60)
    today = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr(clock_module, "_system", lambda: today)
    name = Authority.open(folder, NAMES).root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    assert name.startswith("mirrortap root CA, builder-xx")
    assert name.endswith(", made 2026-02-28")


def test_root_pem_path_and_fingerprint(folder: Path) -> None:
    made = Authority.open(folder, NAMES)
    assert made.root_path == folder / "ca.crt"
    assert made.roots_pem == (folder / "ca.crt").read_bytes()
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(folder / "ca.crt")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert printed.partition("=")[2] == made.fingerprint


def test_file_modes_even_with_a_careless_umask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_replace: list[int] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        at_replace.append(source.stat().st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr("os.replace", watch)
    mask = os.umask(0)
    try:
        Authority.open(folder, NAMES)
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        ".lock": 0o600,
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "intermediate.crt": 0o644,
        "intermediate.key": 0o600,
    }
    assert sorted(at_replace) == [
        0o600,
        0o600,
        0o644,
        0o644,
    ]  # final before the name


def test_failed_write_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Authority.open(folder, NAMES)
    old = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".key"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(AuthorityError, match="No space left on device"):
            Authority.open(folder, ["quay.io"])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".key"} == old
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".lock"]
    assert openssl_verify(folder / "ca.crt", Authority.open(folder, ["quay.io"]).leaf("quay.io")) == ""


def test_crash_between_key_and_certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder must not be left with the new key beside the old certificate, which open() refuses."""
    made = Authority.open(folder, NAMES)
    replace = os.replace

    def crash(source: Path, target: Path) -> None:
        if target.name == "intermediate.crt":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            Authority.open(folder, ["quay.io"])
    again = Authority.open(folder, ["quay.io"])
    assert again.root == made.root
    assert openssl_verify(folder / "ca.crt", again.leaf("quay.io")) == ""


# --- opening again ---


def test_second_open_changes_nothing(folder: Path) -> None:
    first = Authority.open(folder, NAMES)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    second = Authority.open(folder, [*reversed(NAMES), "sub.ghcr.io", "GHCR.IO"])
    assert (first.created, second.created) == (True, False)
    assert second.root == first.root
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("names", [(*NAMES, "quay.io"), NAMES[:-1], ("quay.io",)])
def test_changed_names_reissue_the_intermediate_only(folder: Path, names: tuple[str, ...]) -> None:
    first = Authority.open(folder, NAMES)
    intermediate = stored(folder / "intermediate.crt")
    second = Authority.open(folder, names)
    assert second.root == first.root
    assert not second.created
    assert stored(folder / "intermediate.crt") != intermediate
    assert stored(folder / "intermediate.crt").public_key() != intermediate.public_key()
    handshake(folder / "ca.crt", second.leaf(names[-1]), names[-1])
    with pytest.raises(AuthorityError, match="outside the names"):
        second.leaf("example.com")


def test_foreign_intermediate_is_replaced(folder: Path) -> None:
    made = Authority.open(folder, NAMES)
    Authority.open(folder.with_name("other"), NAMES)
    for name in ("intermediate.crt", "intermediate.key"):
        (folder / name).write_bytes((folder.with_name("other") / name).read_bytes())
    again = Authority.open(folder, NAMES)
    assert again.root == made.root
    assert openssl_verify(folder / "ca.crt", again.leaf("ghcr.io")) == ""


@pytest.mark.parametrize("name", ["intermediate.crt", "intermediate.key"])
def test_lost_intermediate_is_replaced(folder: Path, name: str) -> None:
    made = Authority.open(folder, NAMES)
    (folder / name).unlink()
    again = Authority.open(folder, NAMES)
    assert again.root == made.root
    assert openssl_verify(folder / "ca.crt", again.leaf("ghcr.io")) == ""


Clock = Callable[[int], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stops the authority's clock so many days from now."""
    now = datetime.now(UTC).replace(microsecond=0)
    return lambda days: monkeypatch.setattr(clock_module, "_system", lambda: now + timedelta(days=days))


def test_intermediate_is_renewed_30_days_before_its_end(folder: Path, clock: Clock) -> None:
    Authority.open(folder, NAMES)
    intermediate = stored(folder / "intermediate.crt")
    clock(334)
    Authority.open(folder, NAMES)
    assert stored(folder / "intermediate.crt") == intermediate
    clock(336)
    Authority.open(folder, NAMES)
    assert stored(folder / "intermediate.crt") != intermediate


def test_nothing_outlives_its_issuer(folder: Path, clock: Clock) -> None:
    made = Authority.open(folder, NAMES)
    end = stored(folder / "intermediate.crt").not_valid_after_utc
    clock(362)
    assert made.leaf("docker.io").not_after == end
    clock(366)
    with pytest.raises(AuthorityError, match=r"ended on .*; mirrortap ca show"):
        made.leaf("docker.io")
    clock(3645)
    made = Authority.open(folder, NAMES)
    last = stored(folder / "intermediate.crt")
    assert last.not_valid_after_utc == made.root.not_valid_after_utc
    Authority.open(folder, NAMES)
    assert stored(folder / "intermediate.crt") == last  # a new one would end at the same time


def test_first_opens_at_once_make_one_root(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ca.authority import Authority\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "made = Authority.open(Path(sys.argv[1]), ['docker.io']); made.leaf('docker.io')\n"
        "print(made.fingerprint, made.created)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len({fingerprint for fingerprint, _ in answers}) == 1
    assert sorted(created for _, created in answers) == ["False"] * 7 + ["True"]


# --- when to open again, and what to warn of ---

DAY = timedelta(days=1)


def opened(folder: Path, leaf: timedelta = 7 * DAY, intermediate: timedelta = 365 * DAY) -> Authority:
    return Authority.open(folder, NAMES, leaf_life=leaf, intermediate_life=intermediate)


@pytest.mark.parametrize(
    ("leaf", "intermediate", "before"),
    [
        (7 * DAY, 365 * DAY, 30 * DAY),
        (7 * DAY, 30 * DAY, 10 * DAY),
        (7 * DAY, 14 * DAY, 7 * DAY),
        (timedelta(seconds=60), timedelta(minutes=3), timedelta(seconds=60)),
    ],
)
def test_renewal_comes_before_a_leaf_would_be_cut_short(
    folder: Path, leaf: timedelta, intermediate: timedelta, before: timedelta
) -> None:
    made = opened(folder, leaf, intermediate)
    end = made.intermediate.not_valid_after_utc
    assert abs(end - datetime.now(UTC) - intermediate) < timedelta(seconds=30)
    assert made.renewal == end - before
    assert made.leaf("docker.io").not_after - datetime.now(UTC) > leaf - timedelta(seconds=30)
    assert made.warnings == ()


def test_short_intermediate_is_renewed_and_not_sooner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lives = timedelta(seconds=60), timedelta(minutes=3)
    first = opened(folder, *lives)
    for seconds, renewed in ((90, False), (125, True)):
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        monkeypatch.setattr(clock_module, "_system", lambda later=later: later)
        again = opened(folder, *lives)
        assert (again.intermediate != first.intermediate) is renewed
        assert again.leaf("docker.io").not_after == later + timedelta(seconds=60)


def test_shorter_life_counts_at_once(folder: Path) -> None:
    first = opened(folder)
    assert opened(folder, intermediate=30 * DAY).intermediate != first.intermediate
    (folder / "ca.key").unlink()
    assert opened(folder, DAY, 3 * DAY).warnings == ()


def test_lives_that_do_not_go_together(folder: Path) -> None:
    with pytest.raises(AuthorityError, match=r"7 days, .* twice as long, not 13 days, .*; raise intermediate-life"):
        opened(folder, intermediate=13 * DAY)
    assert not folder.exists()


def test_intermediate_that_cannot_be_renewed_is_warned_of(folder: Path, clock: Clock) -> None:
    opened(folder)
    (folder / "ca.key").unlink()
    clock(334)
    assert opened(folder).warnings == ()
    clock(336)
    late = opened(folder)
    (warning,) = late.warnings
    end = late.intermediate.not_valid_after_utc
    assert warning.startswith(f"the intermediate CA ends on {end:%Y-%m-%d} (in 29 days), and its issuer's key {folder}")
    assert f"put {folder}/ca.key back for one start, or run mirrortap ca renew" in warning
    # Still in the future, or who waits for it would not wait at all.
    assert late.renewal == clock_module.now() + timedelta(hours=1)


def test_names_that_cannot_be_taken_back_are_warned_of(folder: Path) -> None:
    opened(folder)
    (folder / "ca.key").unlink()
    (warning,) = Authority.open(folder, ["docker.io"]).warnings
    assert warning.startswith("the intermediate CA permits ghcr.io, localhost too")


def test_end_of_the_root_is_warned_of(folder: Path, clock: Clock) -> None:
    opened(folder)
    clock(3650 - 366)
    assert opened(folder).warnings == ()
    clock(3650 - 364)
    (warning,) = opened(folder).warnings
    assert re.fullmatch(r"the root CA ends on \S+ \(in 364 days\); begin to replace it: mirrortap ca rotate", warning)
    clock(3649)
    assert opened(folder).renewal > clock_module.now()


@pytest.mark.parametrize("when", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, tzinfo=UTC)])
def test_clock_that_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch, when: datetime) -> None:
    monkeypatch.setattr(clock_module, "_system", lambda: when)
    with pytest.raises(AuthorityError, match=f"the system's clock says {when:%Y-%m-%d}, which is past; set the clock"):
        opened(folder)
    assert list(folder.iterdir()) == [folder / ".lock"]


def test_clock_that_went_back(folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intermediate from the future is not replaced by one whose date is as doubtful."""
    opened(folder)
    clock(340)
    made = opened(folder)
    clock(339)
    refused(
        folder, r"intermediate certificate \S+intermediate.crt is not valid before [\d-]+; check the clock, or delete"
    )
    monkeypatch.setattr(clock_module, "_system", lambda: made.intermediate.not_valid_before_utc)
    (warning,) = opened(folder).warnings
    assert re.fullmatch(r"the clock says \S+ UTC, but the intermediate CA was made at \S+; set the clock", warning)


# --- without the root key ---


def test_root_key_may_be_away(folder: Path, clock: Clock) -> None:
    first = Authority.open(folder, NAMES)
    (folder / "ca.key").rename(folder.with_name("ca.key"))
    clock(350)  # inside the 30 days: it would be renewed, but still serves
    second = Authority.open(folder, ["docker.io"])
    assert second.root == first.root
    clock(0)
    assert openssl_verify(folder / "ca.crt", second.leaf("docker.io")) == ""
    with pytest.raises(AuthorityError, match="outside the names"):
        second.leaf("ghcr.io")
    assert not (folder / "ca.key").exists()


def test_root_key_away_when_needed(folder: Path, clock: Clock) -> None:
    Authority.open(folder, NAMES)
    (folder / "ca.key").rename(folder.with_name("ca.key"))
    remedy = r"put \S+/ca.key back for one start"
    with pytest.raises(AuthorityError, match=r"intermediate.crt does not permit quay.io, .*" + remedy):
        Authority.open(folder, [*NAMES, "quay.io"])
    clock(366)
    with pytest.raises(AuthorityError, match=r"intermediate.crt ended on .*" + remedy):
        Authority.open(folder, NAMES)
    clock(0)
    (folder / "intermediate.key").unlink()
    with pytest.raises(AuthorityError, match=r"intermediate.crt is missing or has no key, .*" + remedy):
        Authority.open(folder, NAMES)
    Authority.open(folder.with_name("other"), NAMES)
    for name in ("intermediate.crt", "intermediate.key"):
        (folder / name).write_bytes((folder.with_name("other") / name).read_bytes())
    (folder / "intermediate.key").chmod(0o600)
    with pytest.raises(AuthorityError, match=r"intermediate.crt is not signed by ca.crt.*" + remedy):
        Authority.open(folder, NAMES)


# --- bad input: an error with a remedy, and nothing in the folder changed ---


def refused(folder: Path, match: str) -> None:
    files = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(AuthorityError, match=match):
        Authority.open(folder, NAMES)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == files


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", ["ca.key", "intermediate.key"])
def test_open_key_file(folder: Path, name: str, mode: int) -> None:
    Authority.open(folder, NAMES)
    (folder / name).chmod(mode)
    refused(folder, f"{folder / name} is open to other users; chmod 600 {folder / name}$")


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o755, 0o777])
def test_open_folder(folder: Path, mode: int) -> None:
    Authority.open(folder, NAMES)
    folder.chmod(mode)
    refused(folder, f"^folder {folder} is open to other users; chmod 700 {folder}$")


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else can give files away")
@pytest.mark.parametrize("name", [".", "ca.key", "intermediate.key"])
def test_somebody_elses(folder: Path, name: str) -> None:
    Authority.open(folder, NAMES)
    os.chown(folder / name, 65534, 65534)
    told = (
        rf"^(folder|private key) {folder / name} belongs to uid 65534, and this is uid 0; run mirrortap as that user: "
    )
    refused(folder, f"{told}docs/deploy/systemd.md says how for a service$")


def test_somebody_elses_may_become_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless this is root, which has nothing to gain by it."""
    Authority.open(folder, NAMES)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    told = f"belongs to uid {owner}, and this is uid 54321; run mirrortap as that user, or chown -R 54321 {folder}$"
    refused(folder, f"^folder {folder} {told}")


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00 not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "intermediate.crt", "intermediate.key"])
def test_garbage_file(folder: Path, name: str, garbage: bytes) -> None:
    Authority.open(folder, NAMES)
    (folder / name).write_bytes(garbage)
    refused(folder, rf"{folder / name} is not .*; restore it")


@pytest.mark.parametrize("pair", ["ca", "intermediate"])
def test_key_of_another_certificate(folder: Path, pair: str) -> None:
    Authority.open(folder, NAMES)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{pair}.key").write_bytes(pem)
    refused(folder, rf"{pair}.key is not the key of {folder / pair}.crt; restore it")


def test_leaf_in_place_of_the_root(folder: Path) -> None:
    leaf = Authority.open(folder, NAMES).leaf("docker.io")
    (folder / "ca.crt").write_bytes(leaf.certificate.public_bytes(PEM))
    refused(folder, r"ca.crt is not a CA certificate in PEM \(not a CA\); restore it from a backup")


def test_root_certificate_is_missing(folder: Path) -> None:
    Authority.open(folder, NAMES)
    (folder / "ca.crt").unlink()
    refused(folder, r"ca.crt is missing; restore it, or empty \S+ for a new root")
    (folder / "ca.key").unlink()
    refused(folder, r"ca.crt is missing; restore it, or empty \S+ for a new root")


def test_dangling_link_is_not_a_first_start(folder: Path) -> None:
    folder.mkdir(0o700)
    (folder / "ca.crt").symlink_to(folder / "volume-that-is-not-mounted.crt")
    with pytest.raises(AuthorityError, match=r"cannot read or write \S+ca.crt: No such file"):
        Authority.open(folder, NAMES)
    assert (folder / "ca.crt").is_symlink()


def test_root_at_the_wrong_time(folder: Path, clock: Clock) -> None:
    Authority.open(folder, NAMES)
    clock(3651)
    refused(folder, r"root certificate \S+ca.crt ended on [\d-]+; check the clock, or empty")
    clock(-1)
    refused(folder, r"root certificate \S+ca.crt is not valid before [\d-]+; check the clock, or empty")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes this process unable to write to the folder, though it may run as root."""
    user = os.geteuid()
    if user == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, 65534, 65534)
    folder.chmod(0o500)
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, -1)


def test_folder_that_is_not_writable() -> None:
    # Not tmp_path, whose parents another user may not enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with read_only(folder), pytest.raises(AuthorityError) as caught:
            Authority.open(folder, NAMES)
        expected = f"{folder}/.lock: Permission denied; make {folder} a folder that uid"
        assert expected in str(caught.value)
        with read_only(folder), pytest.raises(AuthorityError, match=r"cannot read or write \S+/below: Perm"):
            Authority.open(folder / "below", NAMES)
        made = Authority.open(folder, NAMES)
        (folder / ".lock").chmod(0o400)
        with read_only(folder):  # nothing to write any more
            assert Authority.open(folder, NAMES).root == made.root


def test_folder_that_is_a_file(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(AuthorityError, match=f"cannot read or write {folder}: File exists"):
        Authority.open(folder, NAMES)


NOT_NAMES = ["192.0.2.1", "2001:db8::1", "[::1]", "127.1", "", ".", "docker.io.", ".docker.io", "*.docker.io"]
NOT_NAMES += ["a..docker.io", "a b.docker.io", "-a.docker.io", "a-.docker.io", "x_y.docker.io", "docker.io\n"]
NOT_NAMES += ["doc\u212aer.io", "d\u00f6cker.io", "\u0661.docker.io", "a" * 64 + ".docker.io"]
NOT_NAMES += [
    "a." * 125 + "docker.io",
    "user@docker.io",
    "https://docker.io",
    "docker.io/library",
    "a.io:443",
]


@pytest.mark.parametrize("host", NOT_NAMES)
def test_no_dns_name(folder: Path, host: str) -> None:
    made = Authority.open(folder, NAMES)
    with pytest.raises(AuthorityError, match=r"is not a DNS name|is an IP address"):
        made.leaf(host)
    with pytest.raises(AuthorityError, match=r"is not a DNS name|is an IP address"):
        Authority.open(folder, [*NAMES, host])


@pytest.mark.parametrize("host", ["example.com", "notdocker.io", "io", "docker.io.example.com", "docker-io"])
def test_host_outside_the_names(folder: Path, host: str) -> None:
    with pytest.raises(AuthorityError, match=f"^{host} is outside the names"):
        Authority.open(folder, NAMES).leaf(host)


def test_no_names_at_all(folder: Path) -> None:
    """No permitted subtree would permit every name, so this must not come to an intermediate."""
    with pytest.raises(AuthorityError, match="give at least one host"):
        Authority.open(folder, [])
    assert not folder.exists()


# --- names ---

labels = st.sampled_from(["a", "b", "ab", "B", "a-b"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)


def test_more_names_than_a_handshake_carries_are_refused() -> None:
    """Go programs, which most builders are, take 64 KiB."""
    hosts = [f"registry-{number:05}.example{number}.com" for number in range(2000)]
    with pytest.raises(AuthorityError, match=r"2000 host names, of \d+ bytes in all, .* give domains that cover"):
        subtrees(hosts)
    assert len(subtrees(hosts[:1200])) == 1200
    assert subtrees([*(f"{host}.corp.example" for host in hosts), "corp.example"]) == ("corp.example",)


@given(names=st.lists(hosts, min_size=1, max_size=6), host=hosts)
def test_subtrees_cover_the_same_hosts_with_the_fewest_names(names: list[str], host: str) -> None:
    kept = subtrees(names)
    host = dns_name(host)
    covered = any(host == name.lower() or host.endswith("." + name.lower()) for name in names)
    assert within(host, kept) is covered
    assert list(kept) == sorted(set(kept))
    assert not any(one != other and one.endswith("." + other) for one in kept for other in kept)
    assert set(kept) <= {name.lower() for name in names}
