"""One request in a tunnel to a registry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from addon.doors import asked
from addon.doors.exchanges import Exchange
from addon.oci import OciError
from addon.reply import OFFLINE_REASON, OFFLINE_STATUS, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import StreamReader, web

    from addon.config.model import Config, Rule
    from addon.doors.handover import Tunnel
    from addon.doors.visitors import Visitor
    from addon.reply import PlainDoor, Reply
    from addon.service import Service

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class TunnelExchange(Exchange):
    """What registry is meant, the tunnel says."""

    def __init__(
        self,
        service: Service,
        tunnel: Tunnel,
        config: Config | None,
        door: PlainDoor | None,
        request: web.BaseRequest,
        visitor: Visitor,
    ) -> None:
        """`config`: the one that held when the tunnel was made; `door`: where the client can be sent."""
        super().__init__(service, request, visitor)
        self._tunnel = tunnel
        self._config = config
        self._door = door

    async def _asked(self) -> Request | Reply:
        request = self._request
        body = None
        if request.body_exists:
            self._say_continue()
            body = _pieces(request.content, self._service.config.admission.idle)
        headers = tuple(request.headers.items())
        return Request(self._rule(), request.method, request.raw_path, headers, body, door=self._door)

    def _rule(self) -> Rule:
        """Raises OciError."""
        config = self._service.config
        rule = asked.rule(config, self._config, self._tunnel.host, self._tunnel.port, self._request.raw_path)
        if rule is None:
            status, why = (OFFLINE_STATUS, OFFLINE_REASON) if config.offline else (502, "connect anew")
            raise OciError(status, "UNAVAILABLE", f"{self._tunnel.host} is no registry here any more: {why}")
        return rule

    def _say_continue(self) -> None:
        transport = self._request.transport
        if transport and self._request.headers.get("Expect", "").lower() == "100-continue":
            transport.write(_CONTINUE)


async def _pieces(content: StreamReader, idle: float) -> AsyncIterator[bytes]:
    """A request's body as it comes in. Raises OSError when it breaks off, or when nothing comes for `idle` seconds."""
    while True:
        try:
            async with asyncio.timeout(idle):
                piece = await content.readany()
        except TimeoutError:
            raise OSError("the client has stopped sending") from None
        except OSError:
            raise
        except Exception as error:  # aiohttp's own, of several kinds
            raise OSError("the client has broken off") from error
        if not piece:
            return
        yield piece
