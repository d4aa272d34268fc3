"""What goes wrong, for people."""


class TrustError(Exception):
    """It cannot be done; the message says what failed, where, and what to do next."""
