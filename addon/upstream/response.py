"""What an endpoint answers, and why it does not."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import aiohttp

from addon.upstream.connecting import Misled
from addon.upstream.takeover import take_over

if TYPE_CHECKING:
    from types import TracebackType

    from multidict import CIMultiDictProxy
    from yarl import URL

    from addon.config.model import Endpoint
    from addon.parent import Parent
    from addon.upstream.takeover import Taken


class EndpointError(Exception):
    """No HTTP answer came from the endpoint, or its body broke off; the message says why, for people.

    `status` is 401 when there was an answer, and it was no to the proxy's own credential. `fault` is what went wrong
    with the connection; it is not to be shown, for it may name a signed URL.
    """

    def __init__(self, message: str, status: int | None = None, fault: Exception | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fault = fault


class Response:
    """An endpoint's answer, its body not read yet."""

    def __init__(self, endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self.paid = False  # whether a client's credential paid for what anybody may have
        self._response = response

    @property
    def source(self) -> str:
        """The endpoint's name."""
        return self.endpoint.name

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The headers exactly as they came; bytes that are not UTF-8 as surrogates."""
        raw = self._response.raw_headers
        return [(n.decode("utf-8", "surrogateescape"), v.decode("utf-8", "surrogateescape")) for n, v in raw]

    @property
    def url(self) -> URL:
        """Where the answer came from, after redirects."""
        return self._response.url

    @property
    def sent_authorization(self) -> str | None:
        return self._response.request_info.headers.get("Authorization")

    @property
    def size(self) -> int | None:
        """Content-Length in bytes; None when it is not said, or is nonsense."""
        length = self.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None

    async def read(self) -> bytes:
        """What has come of the body, b"" at its end. Raises EndpointError when it breaks off or stalls."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # What came before the break is still in there, megabytes maybe; aiohttp has no public way to it.
            if left := self._response.content._read_nowait(-1):
                return left
            raise broke_off(error) from None

    def take_over(self) -> Taken | None:
        """What is left of the body, for a thread to read; None where only `read` will do."""
        return take_over(self._response)

    async def read_all(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes. Raises EndpointError."""
        content = bytearray()
        while chunk := await self.read():
            content += chunk
            if len(content) > limit:
                raise EndpointError(f"the body has more than {limit} bytes")
        return bytes(content)

    async def close(self) -> None:
        """Gives the connection back when the body was read to its end, drops it otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def broke_off(error: Exception) -> EndpointError:
    """For what went wrong in the middle of a body."""
    return EndpointError(f"the body broke off: {reason(error)}")


def reason(error: Exception, parent: Parent | None = None) -> str:
    """`error` in words that name no URL: a signed one is a secret. `parent`: the proxy that was asked for the way."""
    match error:
        case aiohttp.ClientHttpProxyError() if parent:
            return parent.refusal(error.status, error.message)
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientConnectorDNSError() if parent:
            # Whatever else is looked up or connected to is the parent's own business.
            return f"{parent} cannot be reached: {reason(error)}"
        case aiohttp.ConnectionTimeoutError() if parent:
            return f"no connection in time, through {parent}"
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.SocketTimeoutError():
            return "no data in time"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {getattr(error.certificate_error, 'verify_message', error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"DNS: {error.host} is not known"
        case aiohttp.ClientConnectorSSLError():
            return f"TLS: {getattr(error.os_error, 'reason', None) or error.os_error}"
        case aiohttp.ClientConnectorError(os_error=Misled() as misled):
            return misled.explain(error.host)
        case aiohttp.ClientConnectorError():
            return os.strerror(error.errno) if error.errno else str(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "fewer bytes than announced, or broken framing"
        case aiohttp.ClientResponseError():
            return f"not a valid HTTP answer: {error.message.splitlines()[0] if error.message else 'bad framing'}"
        case aiohttp.InvalidURL():
            return "not a valid URL"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__
