"""The one exception of this package."""


class AuthorityError(Exception):
    """The authority cannot do what was asked; the message says what failed, where, and what to do next."""
