"""When a token that says so itself ends (RFC 7519). Pure."""

from __future__ import annotations

import base64
import json

# Seconds since the epoch; what is said to be later is nonsense.
_LATEST = 1e11


def expiry(token: str) -> float | None:
    """Seconds since the epoch (`exp`, section 4.1.4); None for what is no JWT, or does not say.

    What it says is not verified: those who use it have it from, or have just shown it to, somebody who does.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    ends = claims.get("exp") if isinstance(claims, dict) else None
    if not isinstance(ends, int | float) or isinstance(ends, bool) or not abs(ends) < _LATEST:
        return None
    return float(ends)
