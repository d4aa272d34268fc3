"""One request at the mirror door, and its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from addon import journal, mirroring, oci, reply
from addon.admission.gate import login_to_mirror
from addon.doors.sending import Sending
from addon.doors.visitors import MAX_HEAD, too_long
from addon.oci import OciError, Ping
from addon.reply import OFFLINE_REASON, OFFLINE_STATUS, Reply, Request, Served

if TYPE_CHECKING:
    from aiohttp import web

    from addon.config.model import Rule
    from addon.doors.visitors import Visitor
    from addon.mirroring import Meant
    from addon.service import Service

log = logging.getLogger("mirrortap")

# The client's login here, and what could stand for one: nothing for a registry.
_FOR_US = frozenset({"authorization", "cookie", "proxy-authorization"})
_REFUSED = Served("refused")
_unknown = journal.Seldom(log, 60)
_closing: set[asyncio.Future[None]] = set()  # else they could be collected before they are through


class Exchange:
    """See `answer`."""

    def __init__(self, service: Service, request: web.BaseRequest, visitor: Visitor) -> None:
        self._service = service
        self._request = request
        self._visitor = visitor
        self._begun = time.monotonic()

    async def answer(self) -> web.StreamResponse:
        """Sends the answer, whatever it is."""
        try:
            self._look_at_head()
            if page := self._own_page():
                return await self._send(page)
            with self._visitor.waiting():
                await self._log_in()
            self._look_at_method()
            meant = mirroring.meant(self._request.raw_path)
            rule = self._rule(meant)
            if oci.understand(self._request.method, meant.target) == Ping():
                return await self._send(_pong(rule))
        except OciError as problem:
            return await self._send(_error(problem))
        asked = Request(rule, self._request.method, meant.target, self._headers(), anonymous=True)
        with self._visitor.waiting():
            answer = await self._ask(asked)
        fields = tuple((n, meant.leading_back(v) if n.lower() == "link" else v) for n, v in answer.headers)
        return await self._send(Reply(answer.status, fields, answer.body, answer.served), asked)

    def _own_page(self) -> Reply | None:
        match self._request.raw_path.partition("?")[0]:
            case "/ca.crt":
                return _page(200, self._service.authority.roots_pem, "application/x-pem-file")
            case "/":
                return _page(200, b"mirrortap: a mirror of container registries. Its CA is at /ca.crt\n", "text/plain")
        return None

    def _look_at_head(self) -> None:
        """Raises OciError for what no registry is asked."""
        if sum(len(name) + len(value) for name, value in self._request.raw_headers) > MAX_HEAD:
            raise too_long()
        if self._request.method == "CONNECT" or not self._request.raw_path.startswith("/"):
            message = "this port is a registry mirror, not a proxy: HTTPS_PROXY must name the port of --listen"
            raise OciError(400, "UNSUPPORTED", message)

    async def _log_in(self) -> None:
        authorization = self._request.headers.get("Authorization")
        if refusal := await self._service.gate.login(self._visitor.address, authorization, login_to_mirror):
            code = "UNAUTHORIZED" if refusal.status == 401 else "TOOMANYREQUESTS"
            raise OciError(refusal.status, code, refusal.text.strip(), headers=refusal.headers)

    def _look_at_method(self) -> None:
        if self._request.method not in ("GET", "HEAD"):
            message = "a mirror is read only: push to the registry itself"
            raise OciError(405, "UNSUPPORTED", message, headers=[("Allow", "GET, HEAD")])
        if not f"{self._request.raw_path.partition('?')[0]}/".startswith("/v2/"):
            raise OciError(404, "UNSUPPORTED", "a registry has nothing but what is below /v2/")

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
        return tuple((name, value) for name, value in self._request.headers.items() if name.lower() not in _FOR_US)

    async def _ask(self, asked: Request) -> Reply:
        """The engine's answer; when the client leaves meanwhile, what it would have got is closed."""
        answering = asyncio.ensure_future(self._service.engine.answer(asked))
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(_drop)
            raise

    async def _send(self, answer: Reply, asked: Request | None = None) -> web.StreamResponse:
        """`asked` of the engine, if it was."""
        sending = Sending(self._request, self._visitor)
        offline = asked is not None and asked.rule.offline and answer.status == OFFLINE_STATUS
        try:
            return await sending.send(answer, OFFLINE_REASON if offline else None)
        finally:
            if asked:
                seconds = time.monotonic() - self._begun
                line = journal.line(
                    asked.rule, asked.method, asked.target, answer, sending.sent, seconds, sending.failure
                )
                log.info("%s", line)


def _drop(answering: asyncio.Future[Reply]) -> None:
    """Nobody is there to get it."""
    body = answering.result().body
    if not isinstance(body, bytes):
        closing = asyncio.ensure_future(body.close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


def _pong(rule: Rule) -> Reply:
    """To clients of a mirror it says that they need not log in anywhere else."""
    headers = (("Content-Type", "application/json"), ("Content-Length", "2"), reply.API_VERSION)
    return Reply(200, headers, b"{}", Served("in place of", rule.registry))


def _error(problem: OciError) -> Reply:
    headers = (("Content-Type", "application/json"), reply.API_VERSION, *problem.headers)
    return Reply(problem.status, headers, problem.body(), _REFUSED)


def _page(status: int, content: bytes, media_type: str) -> Reply:
    return Reply(status, (("Content-Type", media_type),), content, _REFUSED)
