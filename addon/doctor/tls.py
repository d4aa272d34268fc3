"""What a builder makes of the certificates that it is shown in the tunnel. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.doctor import chains, clocks, remedies
from addon.doctor.findings import failed, ok, warning
from addon.upstream import findings
from ca.issuing import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509

    from addon.doctor.clocks import Times
    from addon.doctor.findings import Finding
    from addon.doctor.remedies import Kind
    from addon.doctor.trusted import Anchor

STEP = "certificate"


@dataclass(frozen=True)
class Trust:
    """What `who` trusts: the `anchors`; `elsewhere` are files with the proxy's CA that others on this machine read."""

    who: str
    kind: Kind | None
    anchors: Sequence[Anchor]
    elsewhere: Sequence[tuple[str, Path]] = ()


def judge(
    chain: Sequence[bytes], host: str, trust: Trust, roots: Sequence[x509.Certificate], times: Times, url: str
) -> Finding:
    """`roots`: the proxy's own, which is at `url`."""
    flaw = chains.flaw(chain, host, [anchor.certificate for anchor in trust.anchors], times.here)
    own = chains.flaw(chain, host, roots, times.here)
    shown = findings.certificate(chain[0])
    if flaw is None and own is not None and own.untrusted:
        told = f"{host} is led through untouched: its own certificate is shown (issued by {shown.issuer})"
        return warning(STEP, "tunnelled", told, _table(host))
    if flaw is None:
        told = f"of the proxy's CA, which {trust.who} trusts; until {shown.not_after:%Y-%m-%d %H:%M} UTC"
        return ok(STEP, told)
    if flaw.of_time:
        return _of_time(flaw, trust, own is None, times, url)
    if flaw.untrusted and (own is None or not own.untrusted):
        return _unknown(trust, roots, url)
    if flaw.untrusted:
        told = f"the certificate for {host} comes from {shown.issuer}, and not from the proxy's CA"
        return failed(STEP, "intercepted", told, f"Something between here and {url} opens TLS: take it out of the way.")
    names = ", ".join(shown.names[:5]) or "no name"
    told = f"the certificate is for {names}, and not good for {host} ({flaw.message})"
    return failed(
        STEP,
        "wrong-name",
        told,
        "On the proxy's machine, have the CA issued for its configuration:\n  mirrortap ca renew --config FILE",
    )


def _of_time(flaw: chains.Flaw, trust: Trust, good: bool, times: Times, url: str) -> Finding:
    """`good`: by the proxy's own roots the same certificates are."""
    shown = flaw.certificate
    dates = f"{shown.not_before:%Y-%m-%d %H:%M} to {shown.not_after:%Y-%m-%d %H:%M} UTC"
    told = f"{flaw.message}: good from {dates}, and this machine's clock says {times.here:%Y-%m-%d %H:%M} UTC"
    if any(map(flaw.good_at, times.others)) and (off := clocks.judge(STEP, times, stops=True)):
        return failed(STEP, clocks.CODE, f"{told}; {off.what}", off.remedy)
    ends = ((anchor, anchor.certificate.not_valid_after_utc) for anchor in trust.anchors)
    ended = next((anchor for anchor, end in ends if end == shown.not_after < times.here), None)
    if good and ended:
        held = f"{fingerprint(ended.certificate)[:23]}... in {ended.file}"
        what = f"the root that {trust.who} trusts ({held}) ended on {shown.not_after:%Y-%m-%d}; the proxy has another"
        return failed(STEP, "wrong-ca", what, _in_its_place(trust, url, ended))
    remedy = (
        "The proxy must show another one. On its machine, look at its clock and at its CA, and restart it:\n"
        "  timedatectl\n  mirrortap ca show\n  mirrortap ca renew --config FILE"
    )
    return failed(STEP, "leaf-expired", told, remedy)


def _unknown(trust: Trust, roots: Sequence[x509.Certificate], url: str) -> Finding:
    others = [anchor for anchor in trust.anchors if anchor.of_a_mirrortap and anchor.certificate not in roots]
    wanted = " or ".join(f"{fingerprint(root)[:23]}..." for root in roots)
    if others:
        held = "; ".join(f"{fingerprint(each.certificate)[:23]}... in {each.file}" for each in others[:3])
        told = f"{trust.who} trusts the root of another mirrortap ({held}), and this proxy's is {wanted}"
        return failed(STEP, "wrong-ca", told, _in_its_place(trust, url, others[0]))
    told = f"{trust.who} does not trust the proxy's CA ({wanted})"
    if trust.elsewhere:
        places = "; ".join(f"{path} ({who})" for who, path in trust.elsewhere[:3])
        told += f", which is here for others alone: {places}"
    return failed(STEP, "no-ca", told, remedies.certificates(trust.kind, url))


def _in_its_place(trust: Trust, url: str, old: Anchor) -> str:
    return f"{remedies.certificates(trust.kind, url)}\nThen take the old one out of {old.file}."


def _table(host: str) -> str:
    lines = f'  [registry."{host}"]'
    return f"To have it served from mirrors and the cache, write into the proxy's configuration:\n{lines}"
