"""Who is sent to the mirror door for a blob, over plain http: where bytes are public, nothing is lost by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon import reply
from addon.oci import Blob
from addon.reply import Served

if TYPE_CHECKING:
    from addon.pulls.access import Access
    from addon.pulls.pull import Pull
    from addon.reply import Reply
    from addon.tickets import Tickets

# Bytes below which the client's other connection costs more than TLS does (measured).
SMALLEST = 1 << 20


class Redirects:
    """Answers with a ticket in place of the content."""

    def __init__(self, access: Access, tickets: Tickets) -> None:
        self._access = access
        self._tickets = tickets

    def reply(self, pull: Pull, size: int) -> Reply | None:
        """To who wants content of `size` bytes that is in the cache; None: the content itself is the answer.

        The digest that the client has asked for is what it checks the bytes against: they may come over plain http.
        """
        door, asked = pull.request.door, pull.asked
        if door is None or not pull.rule.redirect or not isinstance(asked, Blob) or pull.request.method != "GET":
            return None
        if size < SMALLEST or pull.reader.personal or not self._access.public(pull.rule, pull.repository):
            return None
        headers = [
            ("Location", door.url + self._tickets.made(pull.rule.registry, asked, door.client)),
            ("Docker-Content-Digest", str(pull.digest)),
            reply.API_VERSION,
            ("Content-Length", "0"),
        ]
        return reply.ours(307, headers, b"", Served("redirected"), pull.request)
