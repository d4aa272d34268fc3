"""What every door asks before it serves somebody: may they connect, are they logged in, may they reach that host."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import addresses
from addon.admission import rules
from addon.admission.logins import Logins, TooManyGuesses
from addon.journal import Seldom
from addon.parent import Parents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from addon.config.current import Current
    from addon.config.model import Config
    from addon.parent import Parent

log = logging.getLogger("mirrortap")

# Lines about refusals of one kind that the log gets a minute.
_LINES = 60
# Names that are looked up at once: those that hang must not take the threads that the cache needs.
_LOOKUPS = 16
_BASIC = 'Basic realm="mirrortap", charset="UTF-8"'


@dataclass(frozen=True)
class Refusal:
    """An answer in place of what was asked for. Of a CONNECT's, Go programs show people the reason alone."""

    status: int
    reason: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()


class Crowd:
    """How many connections each client has."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self._counts.total()

    def enter(self, client: str, most: int) -> bool:
        """Whether it has fewer than `most`; there is one more then, which then counts until it leaves."""
        if self._counts[client] >= most:
            return False
        self._counts[client] += 1
        return True

    def leave(self, client: str) -> None:
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]


class Gate:
    """The rules of the configuration in use, and what they need to know. Clients are named by IP address."""

    def __init__(self, current: Current, parents: Parents | None = None) -> None:
        self._current = current
        self._parents = parents or Parents()
        self._crowd = Crowd()
        self._logins: tuple[Path, Logins] | None = None
        self._lookups = ThreadPoolExecutor(_LOOKUPS, "lookup")
        self._strangers, self._crowded, self._strays = Seldom(log, _LINES), Seldom(log, _LINES), Seldom(log, _LINES)
        self._impostors = Seldom(log, _LINES)

    def enter(self, client: str) -> bool:
        """Whether a connection may stay, which then counts until `leave`; the log says why not."""
        if not rules.may_connect(self._config.admission, client):
            self._strangers.warning("%s was turned away: it is not in allow-clients", client)
            return False
        most = self._config.admission.connections
        if not self._crowd.enter(client, most):
            self._crowded.warning(
                "%s was turned away: it has %d connections already (connections-per-client)", client, most
            )
            return False
        return True

    def leave(self, client: str) -> None:
        self._crowd.leave(client)

    @property
    def count(self) -> int:
        """Connections that there are."""
        return self._crowd.count

    @property
    def wants_login(self) -> bool:
        return self._current_logins() is not None

    async def login(self, client: str, authorization: str | None, refusal: Callable[[str], Refusal]) -> Refusal | None:
        """What a client that has not logged in gets: `refusal` says it in the door's own way (below)."""
        logins = self._current_logins()
        if logins is None:
            return None
        try:
            if authorization and await logins.allows(client, authorization):
                return None
        except TooManyGuesses as guesses:
            self._impostors.warning("%s tried too many wrong logins", client)
            wait = int(guesses.wait) + 1
            return Refusal(
                429,
                f"mirrortap got too many wrong logins from {client}",
                f"mirrortap got too many wrong logins from {client}; try again in {wait} s\n",
                (("Retry-After", str(wait)),),
            )
        what = "does not know this user or password" if authorization else "wants a login"
        if authorization:
            self._impostors.warning("%s tried to log in with a wrong user or password", client)
        return refusal(what)

    async def way(
        self, client: str, host: str, port: int, own: Iterable[tuple[str, int]], *, scheme: str | None = None
    ) -> list[str] | Refusal:
        """The addresses at which a host that is not intercepted may be reached. `own`: where this proxy listens.

        With a `scheme`, "https" for a tunnel or "http" for a plain request, those of its parent proxy, if it has one.
        """
        where = rules.place(host, port)
        if self._config.offline:
            table = f'[registry."{where.removesuffix(":443")}"]'
            self._strays.warning(
                "%s was refused a connection: mirrortap is offline, and connects to nothing, %s included; if it is a"
                " registry whose images are cached, add %s to the configuration",
                client,
                where,
                table,
            )
            return Refusal(
                504,
                "mirrortap is offline",
                f"mirrortap is offline: it serves images from its cache and connects to nothing, {where} included; if"
                f" it is a registry whose images are cached, add {table} to mirrortap's configuration\n",
            )
        if refused := rules.refused(self._config, host, port):
            return self._refusal(client, where, refused)
        if scheme and (parent := self._parents.way(scheme, host, port)):
            return await self._way_through(parent, client, host, port, own)
        try:
            found = await self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            return Refusal(502, f"mirrortap cannot connect to {where}", f"cannot connect to {where}: {_why(error)}\n")
        if refused := self._refused_at(host, port, found, own):
            return self._refusal(client, where, refused)
        return found

    async def _way_through(
        self, parent: Parent, client: str, host: str, port: int, own: Iterable[tuple[str, int]]
    ) -> list[str] | Refusal:
        """It looks up names itself; addresses are held to the same rules as without it."""
        address = addresses.written(host)
        if address and (refused := self._refused_at(host, port, [address], own)):
            return self._refusal(client, rules.place(host, port), refused)
        try:
            found = await self._lookup(parent.host, parent.port)
        except (OSError, UnicodeError) as error:
            told = f"mirrortap cannot reach {parent}"
            return Refusal(502, told, f"{told}: {_why(error)}\n")
        if any(is_own(address, parent.port, own) for address in found):
            told = f"mirrortap cannot go through {parent}: that is mirrortap itself"
            return Refusal(508, told, f"{told}; take it out of its environment\n")
        return found

    def _refused_at(
        self, host: str, port: int, found: Sequence[str], own: Iterable[tuple[str, int]]
    ) -> rules.Refused | None:
        if any(is_own(address, port, own) for address in found):
            return rules.Refused("is this proxy itself", "use another name or port in HTTPS_PROXY or NO_PROXY")
        return rules.refused_at(self._config, host, port, found)

    @property
    def _config(self) -> Config:
        return self._current.config

    def _current_logins(self) -> Logins | None:
        """Those of the file of users that there is now; what is known of them stays as long as it is that file."""
        users = self._config.admission.users
        if users is None:
            self._logins = None
        elif self._logins is None or self._logins[0] != users:
            self._logins = users, Logins(users)
        return self._logins[1] if self._logins else None

    def _refusal(self, client: str, where: str, refused: rules.Refused) -> Refusal:
        told = f"{where} {refused.why}"
        self._strays.warning("%s was refused a connection: %s; to allow it, %s", client, told, refused.remedy)
        return Refusal(
            403,
            f"mirrortap does not connect to {where}: it {refused.why}",
            f"mirrortap does not connect to {where}: it {refused.why}; to allow it, {refused.remedy}\n",
        )

    async def _lookup(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def login_to_proxy(proxy: str) -> Callable[[str], Refusal]:
    """A proxy's way to ask for a login; `proxy` is where the client reached us, as in http://USER@proxy."""

    def refusal(what: str) -> Refusal:
        return Refusal(
            407,
            f"mirrortap {what}; see HTTPS_PROXY=http://USER:PASSWORD@{proxy}",
            f"mirrortap {what}: set HTTPS_PROXY=http://USER:PASSWORD@{proxy}, with special characters as %XX\n",
            (("Proxy-Authenticate", _BASIC),),
        )

    return refusal


def login_to_mirror(what: str) -> Refusal:
    """A registry's way to ask for one."""
    return Refusal(
        401,
        f"mirrortap {what}",
        f"mirrortap {what}: log in to the mirror itself, as one of its proxy-users",
        (("WWW-Authenticate", _BASIC),),
    )


def login_to_page(what: str) -> Refusal:
    """A web page's way to ask for one."""
    return Refusal(
        401,
        f"mirrortap {what}",
        f"mirrortap {what}: log in as one of its proxy-users\n",
        (("WWW-Authenticate", _BASIC),),
    )


def _why(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def leads_to(host: str, port: int, own: Iterable[tuple[str, int]]) -> bool:
    """Whether this proxy itself is what listens at host and port, as far as that can be looked up now."""
    own = [place for place in own if place[1] == port]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if own else []
    except (OSError, UnicodeError):
        return False
    return any(is_own(str(address[0]), port, own) for *_, address in found)


def is_own(address: str, port: int, own: Iterable[tuple[str, int]]) -> bool:
    """Whether something listens there that listens at one of `own`."""
    for listening, at in own:
        if port == at and (
            addresses.parse(listening) == addresses.parse(address)
            or (addresses.parse(listening).is_unspecified and _is_here(address))
        ):
            return True
    return False


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's: the kernel then takes it for the near end, too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return bool(addresses.parse(probe.getsockname()[0]) == addresses.parse(address))
    except OSError:
        return False
