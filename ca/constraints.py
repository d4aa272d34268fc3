"""Which DNS names a chain of CA certificates may speak for (RFC 5280 4.2.1.10). Pure."""

from collections.abc import Collection, Sequence

from cryptography import x509

from ca.issuing import extension
from ca.names import within


def forbidden(chain: Sequence[x509.Certificate], names: Collection[str]) -> list[str]:
    """Those of `names` that some certificate of the chain may not sign for."""
    return [name for name in names if not all(_permits(certificate, name) for certificate in chain)]


def unlimited(chain: Sequence[x509.Certificate]) -> bool:
    """Whether nothing in the chain limits it to certain DNS names."""
    return not any(permitted(certificate) for certificate in chain)


def permitted(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names that the certificate is limited to; empty when it is not."""
    constraints = extension(certificate, x509.NameConstraints)
    return _dns(constraints.permitted_subtrees) if constraints else ()


def _permits(certificate: x509.Certificate, name: str) -> bool:
    constraints = extension(certificate, x509.NameConstraints)
    if constraints is None:
        return True
    only, never = _dns(constraints.permitted_subtrees), _dns(constraints.excluded_subtrees)
    return (not only or any(_covers(base, name) for base in only)) and not any(_covers(base, name) for base in never)


def _covers(base: str, name: str) -> bool:
    if base.startswith("."):  # what is below alone, as OpenSSL and Go read it
        return name != base[1:] and within(name, (base[1:],))
    return not base or within(name, (base,))


def _dns(subtrees: Sequence[x509.GeneralName] | None) -> tuple[str, ...]:
    return tuple(subtree.value.lower() for subtree in subtrees or () if isinstance(subtree, x509.DNSName))
