"""How durations, sizes, shares and networks are written in configuration files. Pure."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from addon.config.model import Amount, Network

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1} | {
    prefix + unit: base**power
    for base, prefixes, unit in ((1000, "kMGT", "B"), (1024, "KMGT", "iB"))
    for power, prefix in enumerate(prefixes, 1)
}
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('write a duration as a string, like "500ms", "5s" or "10m"')
    match = re.fullmatch(rf"{_NUMBER}(ms|s|m|h|d)", value.strip())
    if not match:
        raise ValueError(f'{value!r} is not a duration: write "500ms", "5s", "10m", "2h" or "1d"')
    return float(match[1]) * _UNITS[match[2]]


def _size(text: str) -> int | None:
    match = re.fullmatch(rf"{_NUMBER}({'|'.join(_SIZES)})", text.strip())
    return int(Decimal(match[1]) * _SIZES[match[2]]) if match else None


def _part(text: str) -> float | None:
    match = re.fullmatch(rf"{_NUMBER}%", text.strip())
    if match and float(match[1]) > 100:
        raise ValueError("is more than 100%")
    return float(match[1]) / 100 if match else None


def _bytes(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('write a number of bytes as a string, like "10kB" or "1MiB"')
    size = _size(value)
    if size is None:
        raise ValueError(f'{value!r} is not a number of bytes: write "500B", "10kB", "1MB" or "1MiB"')
    return size


def _not_tiny(size: int) -> int:
    if size < 1 << 20:
        raise ValueError("is less than 1MiB: each segment is a request of its own; raise it")
    return size


def _share(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError('write a share as a string, like "25%"')
    share = _part(value)
    if share is None:
        raise ValueError(f'{value!r} is not a share: write "0%", "25%" or "100%"')
    return share


def _amount(value: object) -> Amount:
    if not isinstance(value, str):
        raise ValueError('write an amount as a string, like "20GB", "20GiB" or "75%" (of the disk)')
    size, share = _size(value), _part(value)
    if size is None and share is None:
        raise ValueError(f'{value!r} is not an amount: write "500MB", "20GB", "20GiB" or "75%" (of the disk)')
    return Amount(size or 0, share or 0.0)


def _something(amount: Amount) -> Amount:
    if amount == Amount():
        raise ValueError("nothing could be cached")
    return amount


def _not_everything(amount: Amount) -> Amount:
    if amount.share == 1:
        raise ValueError("nothing could be cached")
    return amount


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError('write a network as a string, like "10.0.0.0/8"')
    try:
        return ipaddress.ip_network(value.strip())
    except ValueError as error:
        raise ValueError(
            f'{value!r} is not a network: {error}; write "10.0.0.0/8", "192.0.2.7" or "fd00::/8"'
        ) from None


def _somebody(networks: list[Network]) -> list[Network]:
    if not networks:
        raise ValueError("nobody could connect; name networks, or leave it out for loopback and private ranges")
    return networks


def _tunnel(value: object) -> object:
    if value in ("all", "registries") or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return value
    raise ValueError(
        'write "all", "registries" or a list of hosts, like ["registries", "*.example.com", "10.0.0.7:8443"]'
    )


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return port


Duration = Annotated[float, BeforeValidator(_seconds)]
Positive = Annotated[Duration, Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_bytes)]
Segment = Annotated[Bytes, AfterValidator(_not_tiny)]
Share = Annotated[float, BeforeValidator(_share)]
Most = Annotated[Amount, BeforeValidator(_amount), AfterValidator(_something)]
Least = Annotated[Amount, BeforeValidator(_amount), AfterValidator(_not_everything)]
Networks = Annotated[list[Annotated[Network, BeforeValidator(_network)]], AfterValidator(_somebody)]
Tunnel = Annotated[Literal["all", "registries"] | list[str], BeforeValidator(_tunnel)]
Port = Annotated[int, AfterValidator(_port)]


def written_seconds(seconds: float) -> str:
    """A duration as it is written, in the largest unit that it is whole in."""
    for unit in reversed(_UNITS):
        number = seconds / _UNITS[unit]
        if number >= 1 and number.is_integer():
            return f"{int(number)}{unit}"
    return f"{seconds:g}s"


def written_size(size: int) -> str:
    """A number of bytes as it is written, in the largest unit that it is whole in."""
    units = sorted(_SIZES, key=lambda unit: _SIZES[unit], reverse=True)
    unit = next(unit for unit in units if size % _SIZES[unit] == 0 and (size or unit == "B"))
    return f"{size // _SIZES[unit]}{unit}"


def written_share(share: float) -> str:
    """A share (0 to 1) as it is written."""
    return f"{share * 100:.9g}%"


def written_amount(amount: Amount) -> str:
    return written_share(amount.share) if amount.share else written_size(amount.bytes)
