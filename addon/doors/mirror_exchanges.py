"""One request at the mirror door."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from addon import journal, mirroring, oci, reply, tickets
from addon.admission.gate import login_to_mirror
from addon.doors.asked import FOR_US
from addon.doors.exchanges import Exchange
from addon.oci import OciError, Ping
from addon.reply import Reply, Request, Served

if TYPE_CHECKING:
    from addon.config.model import Rule
    from addon.mirroring import Meant

log = logging.getLogger("mirrortap")

_unknown = journal.Seldom(log, 60)


class MirrorExchange(Exchange):
    """What registry is meant, the request itself says."""

    _meant: Meant

    async def _asked(self) -> Request | Reply:
        if page := await self._own_page():
            return page
        self._look_at_target()
        self._meant = meant = self._by_ticket() or await self._by_name()
        rule = self._rule(meant)
        if oci.understand(self._request.method, meant.target) == Ping():
            return _pong(rule)
        return Request(rule, self._request.method, meant.target, self._headers(), anonymous=True)

    def _shown(self, answer: Reply) -> Reply:
        fields = tuple((n, self._meant.leading_back(v) if n.lower() == "link" else v) for n, v in answer.headers)
        return Reply(answer.status, fields, answer.body, answer.served)

    async def _own_page(self) -> Reply | None:
        request = self._request
        with self._visitor.waiting():
            page = await self._service.pages.answer(
                request.method, request.raw_path, request.headers, self._visitor.address, "mirror"
            )
        # An end of ours is not waited for by whoever looks at a stream.
        self._visitor.looks_on = page is not None and not isinstance(page.body, bytes)
        return page

    def _look_at_target(self) -> None:
        """Raises OciError for what no registry is asked."""
        if self._request.method == "CONNECT" or not self._request.raw_path.startswith("/"):
            message = "this port is a registry mirror, not a proxy: HTTPS_PROXY must name the port of --listen"
            raise OciError(400, "UNSUPPORTED", message)

    def _by_ticket(self) -> Meant | None:
        """None for what comes without one. It stands for the client's login at the proxy. Raises OciError."""
        if not self._request.raw_path.startswith(tickets.PATH):
            return None
        ticket = self._service.tickets.read(self._request.raw_path, self._visitor.address)
        self._look_at_method()
        return mirroring.at(ticket.registry, ticket.target)

    async def _by_name(self) -> Meant:
        """Raises OciError."""
        with self._visitor.waiting():
            await self._log_in()
        self._look_at_method()
        if not f"{self._request.raw_path.partition('?')[0]}/".startswith("/v2/"):
            raise OciError(404, "UNSUPPORTED", "a registry has nothing but what is below /v2/")
        return mirroring.meant(self._request.raw_path)

    async def _log_in(self) -> None:
        authorization = self._request.headers.get("Authorization")
        if refusal := await self._service.gate.login(self._visitor.address, authorization, login_to_mirror):
            code = "UNAUTHORIZED" if refusal.status == 401 else "TOOMANYREQUESTS"
            raise OciError(refusal.status, code, refusal.text.strip(), headers=refusal.headers)

    def _look_at_method(self) -> None:
        if self._request.method not in ("GET", "HEAD"):
            message = "a mirror is read only: push to the registry itself"
            raise OciError(405, "UNSUPPORTED", message, headers=[("Allow", "GET, HEAD")])

    def _rule(self, meant: Meant) -> Rule:
        rule = self._service.config.rule(meant.host, meant.port, oci.repository(meant.target))
        if rule is None:
            message = (
                f'{meant.registry} is not one of the registries here: write [registry."{meant.registry}"] in the'
                " configuration to have it mirrored"
            )
            _unknown.warning("%s was refused: %s", self._visitor.address, message)
            raise OciError(404, "NAME_UNKNOWN", message)
        return rule

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in self._request.headers.items() if name.lower() not in FOR_US)


def _pong(rule: Rule) -> Reply:
    """To clients of a mirror it says that they need not log in anywhere else."""
    headers = (("Content-Type", "application/json"), ("Content-Length", "2"), reply.API_VERSION)
    return Reply(200, headers, b"{}", Served("in place of", rule.registry))
