"""Whose clock is wrong: this machine's, the proxy's or the registry's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from addon.doctor.findings import failed, warning
from addon.upstream import findings
from addon.upstream.findings import time_of
from ca import clock

if TYPE_CHECKING:
    from datetime import datetime

    from addon.doctor.findings import Finding

CODE: Final = "clock"
_SET = "  timedatectl set-ntp true"


@dataclass(frozen=True)
class Times:
    """This machine's, and the Date headers of the proxy and of the registry, as far as there were some. `together`: the
    proxy is on this machine, so that both go by one clock."""

    here: datetime
    proxy: str | None = None
    origin: str | None = None
    together: bool = False

    @property
    def others(self) -> tuple[datetime, ...]:
        return tuple(time for each in (self.proxy, self.origin) if (time := time_of(each)))


def judge(step: str, times: Times, *, stops: bool = False) -> Finding | None:
    """None where all that are known go together. `stops`: because of it nothing can be pulled."""
    told = failed if stops else warning
    here = f"Set this machine's clock, or have it kept right:\n{_SET}"
    if times.here < clock.EARLIEST:
        return told(step, CODE, f"this machine's clock says {times.here:%Y-%m-%d}, which is past", here)
    proxy, origin = findings.clock(times.proxy, times.here), findings.clock(times.origin, times.here)
    problem = proxy or origin
    if problem is None:
        return None
    there = time_of(times.origin)
    if proxy and there:
        if origin and findings.clock(times.proxy, there) is None:
            return told(step, CODE, f"the proxy and the registry agree, and this machine does not: {proxy.what}", here)
        if origin is None:
            on_proxy = f"On the proxy's machine, set the clock:\n{_SET}"
            return told(step, CODE, f"the proxy is the odd one out: {proxy.what}", on_proxy)
    if origin and time_of(times.proxy) and proxy is None:
        if times.together:
            what = f"the registry does not agree with this machine, where the proxy is as well: {origin.what}"
            return told(step, CODE, what, f"{here}\nIf it is right, whoever runs the registry must set its.")
        remedy = "Have whoever runs the registry set its clock; nothing is wrong with this machine's."
        return told(step, CODE, f"the registry is the odd one out: {origin.what}", remedy)
    who = "the proxy" if proxy else "the registry"
    remedy = f"See whose is wrong, and set it, on that machine:\n  date -u\n{_SET}"
    return told(step, CODE, f"{who} and this machine do not agree: {problem.what}", remedy)
