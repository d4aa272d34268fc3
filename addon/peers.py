"""What a TLS peer has shown of itself."""

from __future__ import annotations

import ssl
import sys


def chain(secured: ssl.SSLSocket | ssl.SSLObject) -> list[bytes]:
    """The certificates, in DER, as they were sent and before anything is known of them; none before the handshake."""
    if sys.version_info >= (3, 13):
        return list(secured.get_unverified_chain())
    # It is there, and has no public name yet.
    found = secured._sslobj.get_unverified_chain() if secured._sslobj else None
    return [each.public_bytes(ssl._ssl.ENCODING_DER) for each in found or ()]
