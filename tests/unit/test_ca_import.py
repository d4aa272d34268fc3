"""A company's own CA: what is taken over, what is refused, and what verifiers that trust its root say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.verifiers import handshake, openssl_verify

from ca import clock
from ca.authority import Authority, AuthorityError, subtrees
from ca.constraints import forbidden
from ca.files import KeyIsEncrypted, certificates_pem, key_pem
from ca.holding import KeyPlace, room
from ca.importing import take
from ca.lives import Lives

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ca.holding import Holding
    from ca.issuing import CaKey

NAMES = subtrees(["docker.io", "ghcr.io"])
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Made:
    certificate: x509.Certificate
    key: CaKey


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def make(
    issuer: Made | None = None,
    key: CaKey | None = None,
    *,
    name: str = "Acme CA",
    length: int | None = None,
    ca: bool = True,
    signs: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] = (),
    permitted: list[x509.GeneralName] | None = None,
    excluded: list[x509.GeneralName] | None = None,
    begins: datetime = NOW - timedelta(days=10),
    ends: datetime = NOW + timedelta(days=1000),
) -> Made:
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer or Made(None, key)  # type: ignore[arg-type]
    above = issuer.certificate if issuer else None
    usage = x509.KeyUsage(True, False, False, False, False, signs, signs, False, False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca, length if ca else None), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False),
    ]
    if purposes:
        extensions.append((x509.ExtendedKeyUsage(purposes), False))
    if permitted or excluded:
        extensions.append((x509.NameConstraints(permitted, excluded), True))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Made(builder.sign(signer.key, hashes.SHA256()), key)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def root() -> Made:
    return make(name="Acme Root")


@dataclass(frozen=True)
class Company:
    """The files that a company hands out, and the folder that they are imported to."""

    folder: Path
    root: Made

    @property
    def roots(self) -> Path:
        """What its builders trust."""
        path = self.folder.parent / "acme-root.pem"
        path.write_bytes(certificates_pem(self.root.certificate))
        return path

    def give(self, signer: Made, *above: Made, phrase: bytes | None = None) -> None:
        (self.folder.parent / "ca.pem").write_bytes(
            certificates_pem(signer.certificate, *(made.certificate for made in above))
        )
        path = self.folder.parent / "ca-key.pem"
        path.touch()
        path.chmod(0o600)
        path.write_bytes(key_pem(signer.key, phrase))

    def take(self, phrase: bytes | None = None, names: tuple[str, ...] = NAMES) -> Holding:
        parent = self.folder.parent
        return take(self.folder, names, Lives(), parent / "ca.pem", KeyPlace(parent / "ca-key.pem", phrase), self.roots)

    def refused(self, told: str) -> None:
        before = {path: path.read_bytes() for path in self.folder.glob("*")}
        with pytest.raises(AuthorityError, match=told):
            self.take()
        assert {path: path.read_bytes() for path in self.folder.glob("*")} == before

    def accepted(self, host: str = "registry-1.docker.io") -> Authority:
        """A proxy of this folder, whose leaf builders of the company take."""
        proxy = Authority.open(self.folder, NAMES)
        leaf = proxy.leaf(host)
        handshake(self.roots, leaf, host)
        assert openssl_verify(self.roots, leaf) == ""
        return proxy


@pytest.fixture
def company(tmp_path: Path, root: Made) -> Company:
    return Company(tmp_path / "ca", root)


# --- what is taken over ---


@pytest.mark.parametrize("length", [None, 1])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_one_that_permits_a_ca_below_it(
    company: Company, rsa_key: rsa.RSAPrivateKey, kind: str, length: int | None
) -> None:
    signer = make(company.root, rsa_key if kind == "rsa" else None, length=length)
    company.give(signer)
    held = company.take()
    assert held.imported == (signer.certificate,)
    assert held.permitted == NAMES
    proxy = company.accepted()
    assert proxy.root == company.root.certificate
    assert proxy.roots_pem == certificates_pem(company.root.certificate)
    assert proxy.chain[1:] == (signer.certificate,)
    assert proxy.warnings == ()
    assert (company.folder / "imported.key").stat().st_mode & 0o777 == 0o600
    assert isinstance(proxy.leaf("ghcr.io").key.curve, ec.SECP256R1)
    # Its key is needed no more than a root's.
    (company.folder / "imported.key").unlink()
    company.accepted()
    with pytest.raises(AuthorityError, match=r"does not permit quay.io, .* put \S+/imported.key back for one start"):
        Authority.open(company.folder, ["quay.io"])


def test_one_that_signs_by_itself(company: Company, rsa_key: rsa.RSAPrivateKey) -> None:
    signer = make(company.root, rsa_key, length=0)
    company.give(signer)
    held = company.take()
    assert held.permitted == ()
    proxy = company.accepted()
    assert proxy.chain == (signer.certificate,)
    assert proxy.leaf("ghcr.io").certificate.issuer == signer.certificate.subject
    (warning,) = proxy.warnings
    assert "is not limited to certain names: whoever steals" in warning
    with pytest.raises(AuthorityError, match="outside the names"):
        proxy.leaf("example.com")
    (company.folder / "imported.key").unlink()
    with pytest.raises(AuthorityError, match=r"imported.key is not at hand, and it signs every certificate; import it"):
        Authority.open(company.folder, NAMES)


def test_one_that_signs_by_itself_for_certain_names(company: Company) -> None:
    company.give(make(company.root, length=0, permitted=dns("docker.io", "ghcr.io", "corp.example")))
    assert company.take().permitted == ("docker.io", "ghcr.io", "corp.example")
    assert company.accepted().warnings == ()
    with pytest.raises(
        AuthorityError, match=r"imported.crt may not sign for quay.io; take them out of the configuration"
    ):
        Authority.open(company.folder, ["docker.io", "quay.io"])


def test_one_under_another(company: Company) -> None:
    """The path length of a CA above it says that it may sign leaves alone."""
    above = make(company.root, name="Acme Policy CA", length=1)
    signer = make(above, ends=NOW + timedelta(days=20))
    company.give(signer, above)
    held = company.take()
    assert held.direct
    assert held.imported == (signer.certificate, above.certificate)
    proxy = company.accepted()
    assert proxy.leaf("ghcr.io").chain == (signer.certificate, above.certificate)
    assert proxy.leaf("ghcr.io").not_after <= signer.certificate.not_valid_after_utc
    assert "the imported CA ends on" in proxy.warnings[0]
    assert "mirrortap ca import" in proxy.warnings[0]


def test_encrypted_key(company: Company) -> None:
    company.give(make(company.root), phrase=b"acme")
    with pytest.raises(KeyIsEncrypted, match=r"ca-key.pem is encrypted; give its passphrase with --passphrase-file"):
        company.take()
    with pytest.raises(AuthorityError, match=r"that is not the passphrase of private key \S+ca-key.pem"):
        company.take(b"wrong")
    assert not company.folder.exists()
    company.take(b"acme")
    assert b"ENCRYPTED" in (company.folder / "imported.key").read_bytes()
    company.accepted()


def test_the_one_that_follows(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    company.give(make(company.root, ends=NOW + timedelta(days=20)))
    company.take()
    monkeypatch.setattr(clock, "_system", lambda: NOW + timedelta(days=21))
    with pytest.raises(
        AuthorityError, match=r"imported certificate \S+ ended on .*; .* import the one that follows it"
    ):
        Authority.open(company.folder, NAMES)
    company.give(make(company.root))
    company.take()
    held = Authority.open(company.folder, NAMES)
    assert held.root == company.root.certificate
    assert held.intermediate.not_valid_after_utc == NOW + timedelta(days=21 + 365)


# --- what is refused, and nothing written ---


def test_not_over_another_ca(company: Company, tmp_path: Path) -> None:
    company.give(make(company.root))
    Authority.open(company.folder, NAMES)
    company.refused("there is a CA already; move it away first, or name another folder with --data")
    elsewhere = Company(tmp_path / "elsewhere", company.root)
    elsewhere.take()
    stranger = make(name="Other Root")
    other = Company(elsewhere.folder, stranger)
    other.give(make(stranger))
    other.refused(r"the CA there has another root, [0-9A-F:]{95}; move it away first")


def test_certificates_that_will_not_do(company: Company, rsa_key: rsa.RSAPrivateKey) -> None:
    small = rsa.generate_private_key(65537, 1024)
    client = [ExtendedKeyUsageOID.CLIENT_AUTH]
    past, future = NOW - timedelta(days=1), NOW + timedelta(days=1)
    for signer, told in (
        (
            make(make()),
            r"CN=Acme CA was issued by CN=Acme CA, which is not there; name the file that has it with --root",
        ),
        (make(company.root, ca=False), r"ca.pem is not a CA certificate in PEM \(not a CA\); name the right file"),
        (make(company.root, signs=False), r"CN=Acme CA may not sign certificates \(its key usage\)"),
        (make(company.root, purposes=client), r"CN=Acme CA is not for servers \(its extended key usage\)"),
        (make(company.root, ends=past), r"CN=Acme CA ended on .*; check the clock, or have another issued"),
        (make(company.root, begins=future), r"CN=Acme CA is not valid before .*; check the clock, or have another"),
        (make(company.root, small), r"CN=Acme CA has an RSA key of 1024 bits, which clients refuse"),
        (
            make(company.root, permitted=dns("corp.example")),
            r"do not let it sign for docker.io, ghcr.io; take them out",
        ),
        (make(company.root, excluded=dns("io")), r"do not let it sign for docker.io, ghcr.io; take them out"),
        (company.root, r"is a root, whose key should be on no proxy; import an intermediate of it"),
    ):
        company.give(signer)
        company.refused(told)
        assert not company.folder.exists()
    below = make(company.root, length=0)
    company.give(make(below), below)
    company.refused(r"a CA above it permits none here \(path length\)")
    company.give(make(company.root, rsa_key), make(company.root))
    (company.folder.parent / "ca-key.pem").write_bytes(key_pem(small))
    company.refused(r"ca-key.pem is not the key of \S+ca.pem; name the right file")
    (company.folder.parent / "ca-key.pem").chmod(0o644)
    company.refused(r"private key \S+ca-key.pem is open to other users; chmod 600")
    company.give(make(company.root, length=0), phrase=b"acme")
    with pytest.raises(
        AuthorityError, match=r"needs its key at every start; decrypt it first: openssl pkey -in \S+ -out"
    ):
        company.take(b"acme")


def test_what_openssl_alone_finds_wrong(company: Company) -> None:
    """A critical extension that nobody knows: everything else is right."""
    signer = make(company.root)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    builder = (
        x509.CertificateBuilder()
        .subject_name(signer.certificate.subject)
        .issuer_name(company.root.certificate.subject)
        .public_key(signer.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(unknown, True)
    )
    company.give(Made(builder.sign(company.root.key, hashes.SHA256()), signer.key))
    company.refused("what it signs for docker.io would be refused: unhandled critical extension; have another CA")


# --- the rules ---


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([None, None], 1),
        ([1, None], 1),
        ([0, None], 0),
        ([5, 2], 1),
        ([None, 1], 0),
        ([None, 2], 1),
        ([None, None, 2], 0),
        ([None, None, 1], -1),
        ([None, 0], -1),
    ],
)
def test_room_below(lengths: list[int | None], expected: int) -> None:
    """RFC 5280 4.2.1.9: how many CAs may follow each one in a path."""
    assert room(*(make(length=length).certificate for length in lengths)) == expected


@pytest.mark.parametrize(
    ("permitted", "excluded", "barred"),
    [
        (None, None, []),
        (dns("docker.io", "ghcr.io"), None, []),
        (dns("IO"), None, []),
        (dns("docker.io"), None, ["ghcr.io"]),
        (dns("ocker.io"), None, ["docker.io", "ghcr.io"]),
        (dns(".io"), None, []),
        (dns(".docker.io"), None, ["docker.io", "ghcr.io"]),
        (dns(""), None, []),
        ([x509.RFC822Name("acme.example")], None, []),
        (None, dns("ghcr.io"), ["ghcr.io"]),
        (dns("io"), dns("docker.io", "hcr.io"), ["docker.io"]),
    ],
)
def test_name_constraints(
    permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None, barred: list[str]
) -> None:
    certificate = make(permitted=permitted, excluded=excluded).certificate
    assert forbidden([make().certificate, certificate], NAMES) == barred
