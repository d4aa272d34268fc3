"""What a builder makes of certificates: as OpenSSL verifies them, at any time, and in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from addon.doctor import chains, clocks, tls
from addon.doctor.clocks import Times
from addon.doctor.trusted import Anchor, anchors, certificates, files
from ca import issuing
from ca.authority import Authority
from ca.issuing import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from addon.doctor.findings import Finding

# Leaves are issued for the days around when the tests run, which may be some time after this.
NOW = datetime.now(UTC) + timedelta(hours=12)
HOST, URL = "registry.test", "http://proxy.test:3128"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ours"), ["test"])


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("others"), ["test"])


def shown(authority: Authority, host: str = HOST) -> list[bytes]:
    leaf = authority.leaf(host)
    return [each.public_bytes(Encoding.DER) for each in (leaf.certificate, *leaf.chain)]


def company(host: str = HOST) -> tuple[x509.Certificate, list[bytes]]:
    """A CA that is no mirrortap's, and a certificate of it."""
    ca = trustme.CA()
    leaf = x509.load_pem_x509_certificate(ca.issue_cert(host).cert_chain_pems[0].bytes())
    return x509.load_pem_x509_certificate(ca.cert_pem.bytes()), [leaf.public_bytes(Encoding.DER)]


def judged(
    chain: list[bytes],
    ours: Authority,
    *trusted: x509.Certificate,
    times: Times | None = None,
    folder: Path | None = None,
) -> Finding:
    file = (folder or ours.root_path.parent) / "trusted.crt"
    trust = tls.Trust("it", None, [Anchor(each, file) for each in trusted], [("docker", file)])
    return tls.judge(chain, HOST, trust, [ours.root], times or Times(NOW), URL)


def test_a_chain_is_good_for_its_host_at_its_time(ours: Authority, others: Authority) -> None:
    chain = shown(ours)
    assert chains.flaw(chain, HOST, [others.root, ours.root], NOW) is None
    assert (early := chains.flaw(chain, HOST, [ours.root], NOW - timedelta(days=2)))
    assert early.of_time
    assert early.good_at(NOW)
    assert (late := chains.flaw(chain, HOST, [ours.root], NOW + timedelta(days=8)))
    assert late.of_time
    assert not late.good_at(None)
    assert (name := chains.flaw(chain, "other.test", [ours.root], NOW))
    assert not name.of_time
    assert not name.untrusted
    for trusted in [], [others.root]:
        assert (unknown := chains.flaw(chain, HOST, trusted, NOW))
        assert unknown.untrusted
    assert (alone := chains.flaw(chain[:1], HOST, [ours.root], NOW))
    assert alone.untrusted


@pytest.mark.parametrize(("host", "good"), [("a.wild.test", True), ("wild.test", False), ("a.b.wild.test", False)])
def test_wildcards(host: str, good: bool) -> None:
    root, chain = company("*.wild.test")
    flaw = chains.flaw(chain, host, [root], NOW)
    assert (flaw is None) == good


def test_all_is_well(ours: Authority) -> None:
    finding = judged(shown(ours), ours, ours.root)
    assert (finding.verdict, finding.code) == ("ok", None)


def test_who_is_not_trusted(ours: Authority, others: Authority) -> None:
    nobody = judged(shown(ours), ours)
    assert nobody.code == "no-ca"
    assert "(docker)" in nobody.what
    assert f"{URL}/ca.crt" in nobody.remedy
    older = judged(shown(ours), ours, others.root)
    assert older.code == "wrong-ca"
    assert others.fingerprint[:23] in older.what
    assert ours.fingerprint[:23] in older.what
    assert "trusted.crt" in older.remedy
    # A company's CA is not a mirrortap's.
    assert judged(shown(ours), ours, company()[0]).code == "no-ca"


def test_a_root_that_has_ended_and_was_made_anew_with_its_key(ours: Authority, tmp_path: Path) -> None:
    """As companies do it; builders that have the old one must be given the new one, whatever the proxy shows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company Root CA")])

    def root(begins: int, ends: int) -> x509.Certificate:
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(NOW + timedelta(days=begins)).not_valid_after(NOW + timedelta(days=ends))
        return builder.add_extension(x509.BasicConstraints(True, None), True).sign(key, SHA256())

    old, new = root(-3650, -1), root(-30, 3620)
    issued = issuing.leaf(issuing.Issuer(new, key), HOST, NOW, NOW + timedelta(days=7))
    chain = [issued.certificate.public_bytes(Encoding.DER)]
    trust = tls.Trust("it", None, [Anchor(old, tmp_path / "company.crt")])
    finding = tls.judge(chain, HOST, trust, [new], Times(NOW), URL)
    assert (finding.verdict, finding.code) == ("failed", "wrong-ca")
    assert f"the root that it trusts ({fingerprint(old)[:23]}... in {tmp_path}/company.crt) ended on" in finding.what
    assert f"{URL}/ca.crt" in finding.remedy
    assert f"take the old one out of {tmp_path}/company.crt" in finding.remedy
    # By the proxy's clock it has not: then that is to be looked at first.
    late = tls.judge(chain, HOST, trust, [new], Times(NOW, _date(timedelta(days=-2))), URL)
    assert late.code == "clock"


def test_whose_certificate_it_is(ours: Authority) -> None:
    root, chain = company()
    through = judged(chain, ours, root, ours.root)
    assert (through.verdict, through.code) == ("warning", "tunnelled")
    assert f'[registry."{HOST}"]' in through.remedy
    between = judged(chain, ours, ours.root)
    assert (between.verdict, between.code) == ("failed", "intercepted")
    assert judged(shown(ours, "other.test"), ours, ours.root).code == "wrong-name"


def _date(when: timedelta | str | None) -> str | None:
    """A Date header of so much later than now: the tests' names must not tell of the clock."""
    return format_datetime(NOW + when, usegmt=True) if isinstance(when, timedelta) else when


@pytest.mark.parametrize(
    ("here", "proxy", "origin", "code", "words"),
    [
        (30, None, None, "leaf-expired", "mirrortap ca show"),
        (30, timedelta(days=30), timedelta(days=30), "leaf-expired", "mirrortap ca renew"),
        # A clock that is off, by which it is no better.
        (30, timedelta(days=29), None, "leaf-expired", "mirrortap ca renew"),
        (30, timedelta(), timedelta(), "clock", "this machine's clock"),
        (30, timedelta(), timedelta(days=30), "clock", "On the proxy's machine, set the clock"),
        (30, timedelta(), None, "clock", "See whose is wrong"),
        (-30, None, timedelta(), "clock", "See whose is wrong"),
    ],
)
def test_dates_are_bad_by_a_certificate_or_by_a_clock(
    ours: Authority, here: int, proxy: timedelta | None, origin: timedelta | None, code: str, words: str
) -> None:
    times = Times(NOW + timedelta(days=here), _date(proxy), _date(origin))
    finding = judged(shown(ours), ours, ours.root, times=times)
    assert (finding.verdict, finding.code) == ("failed", code)
    assert words in finding.remedy


@pytest.mark.parametrize(
    ("proxy", "origin", "whose"),
    [
        (None, None, None),
        (timedelta(), timedelta(), None),
        (timedelta(), None, None),
        ("nonsense", "Thu", None),
        (timedelta(hours=3), timedelta(hours=3), "this machine does not"),
        (timedelta(hours=3), timedelta(), "the proxy is the odd one out"),
        (timedelta(), timedelta(hours=-3), "the registry is the odd one out"),
        (timedelta(hours=3), timedelta(hours=-3), "the proxy and this machine do not agree"),
        (None, timedelta(hours=3), "the registry and this machine do not agree"),
    ],
)
def test_whose_clock_is_off(proxy: timedelta | str | None, origin: timedelta | str | None, whose: str | None) -> None:
    finding = clocks.judge("clock", Times(NOW, _date(proxy), _date(origin)))
    assert (whose is None) == (finding is None)
    if finding and whose:
        assert (finding.verdict, finding.code) == ("warning", "clock")
        assert whose in finding.what


def test_a_proxy_on_the_same_machine_is_no_second_witness() -> None:
    def whose(proxy: timedelta, origin: timedelta) -> str:
        finding = clocks.judge("clock", Times(NOW, _date(proxy), _date(origin), together=True))
        return finding.what if finding else ""

    assert whose(timedelta(), timedelta()) == ""
    assert "does not agree with this machine, where the proxy is as well" in whose(timedelta(), timedelta(hours=3))
    # Something else listens there, and leads to another machine.
    assert "the proxy is the odd one out" in whose(timedelta(hours=3), timedelta())


@pytest.mark.parametrize("proxy", [None, timedelta()])
def test_a_clock_that_cannot_be_is_this_machines_whatever_the_others_say(proxy: timedelta | None) -> None:
    then = datetime(2000, 1, 1, tzinfo=UTC)
    finding = clocks.judge("clock", Times(then, _date(proxy)), stops=True)
    assert finding
    assert (finding.verdict, finding.code) == ("failed", "clock")
    assert finding.what == "this machine's clock says 2000-01-01, which is past"
    assert finding.remedy.startswith("Set this machine's clock")


def test_what_a_program_reads(ours: Authority, others: Authority, tmp_path: Path) -> None:
    """As Go does: one bundle, or the file in its place, and all the files of the folders."""
    system = tmp_path / "etc/ssl/certs"
    system.mkdir(parents=True)
    (system / "ca-certificates.crt").write_bytes(b"# comment\n" + others.roots_pem)
    (system / "own.pem").write_bytes(ours.roots_pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "other.crt").write_bytes(ours.roots_pem)

    def trusted(**environment: str) -> set[str]:
        found = anchors(files(tmp_path, environment))
        return {"ours" if each.certificate == ours.root else "others" for each in found}

    assert trusted() == {"ours", "others"}
    assert trusted(SSL_CERT_FILE="/other.crt", SSL_CERT_DIR="/nowhere") == {"ours"}
    assert trusted(SSL_CERT_FILE="/gone.crt", SSL_CERT_DIR="/nowhere") == set()
    assert list(certificates(b"-----BEGIN CERTIFICATE-----")) == []
