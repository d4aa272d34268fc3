"""Taking over a company's own CA: an intermediate of theirs with its key, whose root their builders trust already."""

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from ca import clock, files, issuing
from ca.constraints import forbidden
from ca.errors import AuthorityError
from ca.files import IMPORTED_CRT, IMPORTED_KEY, ROOT_CRT
from ca.holding import Holding, KeyPlace, read, room, signed
from ca.issuing import CaKey, Issuer, extension, fingerprint
from ca.lives import Lives
from ca.renewing import ensured

_LEAST_RSA = 2048  # bits; clients refuse less


def take(
    folder: Path, names: tuple[str, ...], lives: Lives, certificate: Path, key: KeyPlace, root: Path | None
) -> Holding:
    """Takes over the CA whose certificate is in `certificate` and whose key is where `key` says.

    What is above it, up to the root, comes from `certificate` as well, or from `root`. If it permits a CA below it,
    an intermediate of our own, for `names` only, is issued there; otherwise it signs leaves itself. What was imported
    before is replaced if the root is the same. Raises KeyIsEncrypted and AuthorityError, and changes nothing then.
    """
    assert key.file
    try:
        pool = files.certificates(certificate, files.NAME_ANOTHER)
        if root:
            pool += files.certificates(root, files.NAME_ANOTHER)
        private = files.key(key.file, pool[0], certificate, key.passphrase, files.NAME_ANOTHER)
        encrypted = files.is_encrypted(key.file)
    except OSError as error:
        raise AuthorityError(f"{error.filename}: cannot be read: {error.strerror}") from None
    chain = tuple(_chain(pool, certificate))
    _check(chain, certificate)
    if barred := forbidden(chain, names):
        raise AuthorityError(
            f"{certificate}: its name constraints do not let it sign for {', '.join(barred)}; take them out of the "
            "configuration, or have it issued for them"
        )
    if not room(*chain) and encrypted:
        raise AuthorityError(
            f"{certificate} permits no CA below it, so that the proxy needs its key at every start; decrypt it first: "
            f"openssl pkey -in {key.file} -out OTHER"
        )
    _try(chain, private, names, lives, certificate)
    with files.locked(folder, make=True) as present:
        if present - {IMPORTED_KEY, IMPORTED_CRT}:
            _check_replaced(folder, present, chain[-1])
        files.write_key(folder / IMPORTED_KEY, files.key_pem(private, key.passphrase if encrypted else None))
        files.write_certificates(folder / IMPORTED_CRT, *chain[:-1])
        # Last: without it nothing else counts.
        files.write_certificates(folder / ROOT_CRT, chain[-1])
        present |= {IMPORTED_KEY, IMPORTED_CRT, ROOT_CRT}
        return ensured(read(folder, present, KeyPlace(passphrase=key.passphrase)), names, lives)


def _chain(pool: tuple[x509.Certificate, ...], path: Path) -> Iterator[x509.Certificate]:
    """From the first of `pool` to its root."""
    certificate, left = pool[0], set(pool[1:])
    yield certificate
    while not signed(certificate, certificate):
        above = next((other for other in left if signed(certificate, other)), None)
        if above is None:
            raise AuthorityError(
                f"{path}: {certificate.subject.rfc4514_string()} was issued by "
                f"{certificate.issuer.rfc4514_string()}, which is not there; name the file that has it with --root"
            )
        left.remove(above)
        yield (certificate := above)


def _check(chain: tuple[x509.Certificate, ...], path: Path) -> None:
    """What verifiers would find wrong with a CA certificate, but would say less clearly."""
    if len(chain) == 1:
        raise AuthorityError(f"{path} is a root, whose key should be on no proxy; import an intermediate of it")
    now = clock.now()
    for certificate in chain:
        who = f"{path}: {certificate.subject.rfc4514_string()}"
        if flaw := clock.flaw(certificate, now):
            raise AuthorityError(f"{who} {flaw}; check the clock, or have another issued")
        usage = extension(certificate, x509.KeyUsage)
        if usage and not usage.key_cert_sign:
            raise AuthorityError(f"{who} may not sign certificates (its key usage); have a CA certificate issued")
        purposes = extension(certificate, x509.ExtendedKeyUsage)
        if purposes and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
            purposes
        ):
            raise AuthorityError(f"{who} is not for servers (its extended key usage); have one issued that is")
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA:
            raise AuthorityError(
                f"{who} has an RSA key of {key.key_size} bits, which clients refuse; have one issued with 3072"
            )
    if room(*chain) < 0:
        raise AuthorityError(f"{path}: a CA above it permits none here (path length); have it issued higher up")


def _try(chain: tuple[x509.Certificate, ...], key: CaKey, names: tuple[str, ...], lives: Lives, path: Path) -> None:
    """Signs for every name, as the proxy would, and has OpenSSL verify it."""
    now = clock.now()
    until = min(now + lives.leaf, *(certificate.not_valid_after_utc for certificate in chain))
    issuer, between = Issuer(chain[0], key), chain[:-1]
    if room(*chain):
        issuer = Issuer(*issuing.intermediate(issuer, names, now, until))
        between = (issuer.certificate, *between)
    store = crypto.X509Store()
    store.set_time(now)
    store.add_cert(crypto.X509.from_cryptography(chain[-1]))
    for name in names:
        leaf = issuing.leaf(issuer, name, now, until).certificate
        untrusted = [crypto.X509.from_cryptography(certificate) for certificate in between]
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), untrusted).verify_certificate()
        except crypto.X509StoreContextError as error:
            raise AuthorityError(
                f"{path}: what it signs for {name} would be refused: {error}; have another CA certificate issued"
            ) from None


def _check_replaced(folder: Path, present: set[str], root: x509.Certificate) -> None:
    """Only what was imported makes room, for what has the same root."""
    if ROOT_CRT not in present or IMPORTED_CRT not in present:
        raise AuthorityError(f"{folder}: there is a CA already; move it away first, or name another folder with --data")
    there = files.certificates(folder / ROOT_CRT)[0]
    if there != root:
        raise AuthorityError(
            f"{folder}: the CA there has another root, {fingerprint(there)}; move it away first, "
            "and give builders the new root"
        )
