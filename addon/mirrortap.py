"""What `mitmdump -s addon/mirrortap.py` loads (mitmproxy and mitmweb too).

--set mirrortap_config=FILE   mirrors and registries (default: built in); may be given several times
--set mirrortap_data=DIR      the CA and the cache (default: the XDG data home)
--set mirrortap_offline=true  serve what is cached and connect to nothing
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mitmproxy import ctx, exceptions
from mitmproxy.proxy.mode_specs import ProxyMode

# mitmproxy loads this file by its path, from whichever environment it is installed in.
if (_root := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.append(_root)

from addon.admission import rules
from addon.doors.proxy import ProxyDoor
from addon.service import Service, StartError

if TYPE_CHECKING:
    from mitmproxy.addonmanager import Loader


class Mirrortap:
    """Reads mitmproxy's options and hangs the proxy door in."""

    def __init__(self) -> None:
        self._service: Service | None = None
        self._door: ProxyDoor | None = None

    def load(self, loader: Loader) -> None:
        loader.add_option("mirrortap_config", Sequence[str], [], "The configuration files.")
        loader.add_option("mirrortap_data", str, "", "The folder of the CA and the cache.")
        loader.add_option("mirrortap_offline", bool, False, "Serve what is cached and connect to nothing.")

    def configure(self, updated: set[str]) -> None:
        if self._service and "mode" in updated:
            _check(self._service)
        if not updated & {"mirrortap_config", "mirrortap_data", "mirrortap_offline"}:
            return
        if self._door:
            raise exceptions.OptionsError("mirrortap reads its options once: restart to change them")
        config, data, offline = (
            ctx.options.mirrortap_config,
            ctx.options.mirrortap_data,
            ctx.options.mirrortap_offline,
        )
        try:
            service = Service([Path(each) for each in config], Path(data) if data else None, offline=offline)
            _check(service)
        except (StartError, exceptions.OptionsError) as error:
            # mitmproxy would log a traceback and, in mitmweb, go on without us.
            print(f"mirrortap: {error}", file=sys.stderr)
            sys.exit(2)
        self._service, self._door = service, ProxyDoor(service)
        ctx.master.addons.register(self._door)

    @property
    def addons(self) -> list[ProxyDoor]:
        """mitmproxy passes its hooks on to these."""
        return [self._door] if self._door else []


def _check(service: Service) -> None:
    for mode in ctx.options.mode:
        if why := rules.unfit(service.config.admission, ProxyMode.parse(mode).type_name):
            raise exceptions.OptionsError(why)


addons = [Mirrortap()]
