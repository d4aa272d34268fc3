"""Reads Docker's `daemon.json`: `registry-mirrors`, `insecure-registries`, and the map `registries`.

They mean what they mean to dockerd
(https://github.com/moby/moby/blob/master/daemon/pkg/registry/config.go); its other keys are ignored. dockerd itself has
no `registries`: that is from Watchtower's documentation.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from addon.config import wellknown
from addon.config.formats.source import Source, registry_of, url_of, why
from addon.config.model import ConfigError, Endpoint, Tls, dotted, host_of, is_loopback
from addon.config.reading import Draft, Reading

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Network, Place

_MIRRORS, _INSECURE, _REGISTRIES = _KEYS = ("registry-mirrors", "insecure-registries", "registries")
_HUB = "docker.io"
_LOOPBACK = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")))  # to dockerd, as if they were listed
_BOM = b"\xef\xbb\xbf"
_URL = 'write "https://host[:port][/path]", or "http://..." for plain http'
_PATH = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_UNVERIFIED = Tls(verify=False)


def read(path: Path) -> Reading:
    """What it says of registries. Raises ConfigError."""
    return _Reader(path, _document(path)).reading()


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys it had twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


@dataclass(frozen=True)
class _Own:
    """What is said of one registry, and where."""

    keys: tuple[str, ...]
    mirrors: tuple[Endpoint, ...]


class _Reader:
    def __init__(self, path: Path, document: _Object) -> None:
        self._source = Source(path)
        self._fail = self._source.fail
        self._document = document
        self._warnings: list[str] = []

    def reading(self) -> Reading:
        self._refuse_twice(self._document, "")
        for key in self._document:
            # Its other keys are dockerd's; but a misspelled one of these must not be taken for one of them.
            if key not in _KEYS and (meant := difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.8)):
                self._fail(_quoted(key), f"unknown key; did you mean {meant[0]}?")
        self._insecure, self._networks = self._read_insecure()
        everywhere = self._mirrors(self._document.get(_MIRRORS, []), _MIRRORS)
        of_each = self._registries()
        if _MIRRORS in self._document:
            of_each.setdefault(_HUB, _Own((_MIRRORS,), ()))
        drafts = {host: self._draft(host, own, everywhere) for host, own in of_each.items()}
        for host, i in self._insecure.items():
            if host not in drafts:
                place = self._source.place(_INSECURE, i)
                drafts[host] = Draft(host, origins=self._origins(host, place), place=place)
        if everywhere and (others := sorted(of_each.keys() - {_HUB})):
            named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            self._warnings.append(
                f"{self._source.path}: {_MIRRORS}: are asked for {named}, too, since {_REGISTRIES} names"
                " them: a mirror that has Docker Hub alone and disregards ?ns= may answer a tag with another image of"
                f' the same name; if they are for Docker Hub, move them to {_REGISTRIES}."{_HUB}"'
            )
        return Reading(
            self._source.path,
            tuple(drafts.values()),
            dict.fromkeys(self._insecure, _UNVERIFIED),
            files=frozenset(self._source.files),
            warnings=tuple(self._warnings),
        )

    def _draft(self, host: str, own: _Own, everywhere: tuple[Endpoint, ...]) -> Draft:
        mine = {(mirror.url, mirror.base) for mirror in own.mirrors}
        shared = [mirror for mirror in everywhere if (mirror.url, mirror.base) not in mine]
        # One that is not Docker Hub's alone could not tell otherwise which registry is meant.
        shared = [replace(mirror, ns=host != _HUB) for mirror in shared]
        place = self._source.place(*own.keys)
        return Draft(host, mirrors=(*own.mirrors, *shared), origins=self._origins(host, place), place=place)

    def _origins(self, host: str, place: Place) -> tuple[Endpoint, ...] | None:
        """None when nothing is said of how the registry is reached. Docker Hub is always verified."""
        if host == _HUB:
            return None
        https = Endpoint(host, f"https://{wellknown.api_host(host)}", is_origin=True, place=place)
        if host in self._insecure or is_loopback(host_of(host)):
            return replace(https, tls=_UNVERIFIED), replace(https, url=f"http://{host}")
        return (replace(https, tls=Tls(lenient=self._networks)),) if self._networks != _LOOPBACK else None

    def _registries(self) -> dict[str, _Own]:
        document = self._document.get(_REGISTRIES, _Object([]))
        if not isinstance(document, _Object):
            self._wrong(_REGISTRIES, document, '{"registry.example.com": ["https://mirror.example.com"]}')
        self._refuse_twice(document, f"{_REGISTRIES}.")
        found: dict[str, _Own] = {}
        for key, mirrors in document.items():
            where = f"{_REGISTRIES}.{_quoted(key)}"
            host = registry_of(self._source.authority(key, where))
            if host in found:
                self._fail(where, f"is the same registry as {dotted(found[host].keys)}; keep one of the two")
            found[host] = _Own((_REGISTRIES, key), self._mirrors(mirrors, where, _REGISTRIES, key))
        return found

    def _mirrors(self, value: object, where: str, *keys: str) -> tuple[Endpoint, ...]:
        texts = self._texts(value, where, '["https://mirror.example.com"]')
        return tuple(self._mirror(text, f"{where}[{i}]", *(keys or (where,)), i) for i, text in enumerate(texts))

    def _mirror(self, text: str, where: str, *keys: str | int) -> Endpoint:
        # Neither is shown: they may hold secrets.
        if "@" in text:
            self._fail(where, "has a user name or password; the proxy's own credentials go into a file of its own")
        if "?" in text or "#" in text:
            self._fail(where, f"has a query or fragment, which mirrors have not: {_URL}")
        scheme, slashes, rest = text.partition("://")
        if not slashes:
            self._fail(where, f"{text!r} has no scheme, without which dockerd refuses it, too: {_URL}")
        scheme = scheme.lower()
        if scheme not in ("http", "https"):
            self._fail(where, f"{text!r} is no http or https URL: {_URL}")
        authority, _, path = rest.partition("/")
        authority = self._source.authority(authority, where)
        path = path.removesuffix("/")
        if path and (not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/"))):
            self._fail(where, f"{path!r} cannot be a path of a mirror: {_URL}")
        base = f"/{path}" if path else ""
        return Endpoint(
            f"{authority}{base}",
            url_of(scheme, authority),
            f"{base}/v2",
            tls=_UNVERIFIED if registry_of(authority) in self._insecure else Tls(lenient=self._networks),
            ns=False,
            place=self._source.place(*keys),
        )

    def _read_insecure(self) -> tuple[dict[str, int], tuple[Network, ...]]:
        """Registries, and where they stand in the list; networks."""
        hosts: dict[str, int] = {}
        networks = []
        texts = self._texts(self._document.get(_INSECURE, []), _INSECURE, '["registry.example.com:5000"]')
        for i, text in enumerate(texts):
            where = f"{_INSECURE}[{i}]"
            scheme, slashes, rest = text.partition("://")
            if slashes:
                if scheme.lower() not in ("http", "https"):
                    self._fail(where, f"{text!r} is neither host[:port] nor a network")
                self._warnings.append(f"{self._source.path}: {where}: the scheme is disregarded; write {rest!r}")
                text = rest
            if "/" in text:
                networks.append(self._network(text, where))
                continue
            host = registry_of(self._source.authority(text, where))
            if host == _HUB:
                self._warnings.append(f"{self._source.path}: {where}: Docker Hub is always verified; take it out")
            else:
                hosts.setdefault(host, i)
        return hosts, (*networks, *_LOOPBACK)

    def _network(self, text: str, where: str) -> Network:
        address, _, prefix = text.partition("/")
        try:
            if not (prefix.isascii() and prefix.isdigit()) or "%" in address:
                raise ValueError
            # Bits beyond the prefix do not matter to dockerd.
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            self._fail(where, f'{text!r} is neither host[:port] nor a network: write "10.0.0.0/8" or "fd00::/8"')

    def _texts(self, value: object, where: str, example: str) -> list[str]:
        if not isinstance(value, list):
            self._wrong(where, value, example)
        for i, each in enumerate(value):
            if not isinstance(each, str):
                self._wrong(f"{where}[{i}]", each, example[1:-1])
        return value

    def _wrong(self, where: str, value: object, example: str) -> NoReturn:
        kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
        kind = next((name for of, name in kinds.items() if isinstance(value, of)), "a number")
        self._fail(where, f"is {kind}; write {example}")

    def _refuse_twice(self, document: _Object, where: str) -> None:
        for key in document.twice:
            self._fail(f"{where}{_quoted(key)}", "is there twice, and only one could count; keep one of the two")


def _document(path: Path) -> _Object:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; check the path given to --config") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {why(error)}") from None
    if data.startswith(_BOM):
        raise ConfigError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
    if not data.strip():
        return _Object([])  # dockerd, too, takes it for an empty object
    try:
        document = json.loads(data.decode(), object_pairs_hook=_Object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); JSON files are") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply to be read; dockerd's settings are not") from None
    except ValueError as error:
        # Not only JSONDecodeError: numbers beyond Python's own limits, too.
        raise ConfigError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(document, _Object):
        raise ConfigError(f'{path}: is no JSON object; write {{"{_MIRRORS}": ["https://mirror.example.com"]}}')
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _quoted(key: str) -> str:
    """A key of the file as it can be shown, whatever is in it."""
    return json.dumps(key)
