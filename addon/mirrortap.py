"""What `mitmdump -s addon/mirrortap.py` loads (mitmproxy and mitmweb too).

--set mirrortap_config=FILE   mirrors and registries (default: built in); may be given several times
--set mirrortap_data=DIR      the CA and the cache (default: the XDG data home)
--set mirrortap_offline=true  serve what is cached and connect to nothing
--set mirrortap_mirror_listen=HOST:PORT  where clients that name it as a registry mirror connect (default: nowhere)
--set mirrortap_mirror_tls=NAME  a DNS name of the mirror, which then speaks https; may be given several times
"""

from __future__ import annotations

import logging
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
from addon.doors.closing import Closing
from addon.doors.listening import ListenError, address, bind
from addon.doors.mirror import MirrorDoor
from addon.doors.proxy import ProxyDoor
from addon.service import Service, StartError
from ca.authority import AuthorityError, dns_name

if TYPE_CHECKING:
    from mitmproxy.addonmanager import Loader

log = logging.getLogger("mirrortap")


class Mirrortap:
    """Reads mitmproxy's options and hangs the doors in."""

    def __init__(self) -> None:
        self.addons: list[ProxyDoor | MirrorDoor | Closing] = []
        """mitmproxy passes its hooks on to these."""
        self._service: Service | None = None

    def load(self, loader: Loader) -> None:
        loader.add_option("mirrortap_config", Sequence[str], [], "The configuration files.")
        loader.add_option("mirrortap_data", str, "", "The folder of the CA and the cache.")
        loader.add_option("mirrortap_offline", bool, False, "Serve what is cached and connect to nothing.")
        loader.add_option("mirrortap_mirror_listen", str, "", "HOST:PORT of the registry mirror.")
        loader.add_option("mirrortap_mirror_tls", Sequence[str], [], "DNS names of the mirror, for https.")

    def configure(self, updated: set[str]) -> None:
        if self._service and "mode" in updated:
            _check(self._service)
        if not any(option.startswith("mirrortap_") for option in updated):
            return
        if self.addons:
            raise exceptions.OptionsError("mirrortap reads its options once: restart to change them")
        try:
            self._service, doors = _doors()
        except (StartError, ListenError, ValueError) as error:
            # mitmproxy would log a traceback and, in mitmweb, go on without us.
            print(f"mirrortap: {error}", file=sys.stderr)
            sys.exit(2)
        self.addons = doors
        for door in doors:
            ctx.master.addons.register(door)


def _doors() -> tuple[Service, list[ProxyDoor | MirrorDoor | Closing]]:
    """What the options ask for. Raises StartError, ListenError, and ValueError for an option that is wrong."""
    options = ctx.options
    try:
        names = tuple(dns_name(name) for name in options.mirrortap_mirror_tls)
    except AuthorityError as error:
        raise ValueError(f"mirrortap_mirror_tls: {error}; no certificate of this CA can be for an address") from None
    if names and not options.mirrortap_mirror_listen:
        raise ValueError("mirrortap_mirror_tls is about the port of mirrortap_mirror_listen: set that, too")
    at = address(options.mirrortap_mirror_listen) if options.mirrortap_mirror_listen else None
    configs = [Path(each) for each in options.mirrortap_config]
    data = Path(options.mirrortap_data) if options.mirrortap_data else None
    modes = [ProxyMode.parse(mode).type_name for mode in options.mode]
    service = Service(configs, data, offline=options.mirrortap_offline, own_names=names, modes=modes)
    doors: list[ProxyDoor | MirrorDoor] = [ProxyDoor(service)]
    if at:
        listeners = bind(*at, "mirrortap_mirror_listen")
        doors.append(MirrorDoor(service, listeners, names))
        scheme, place = "https" if names else "http", rules.place(*listeners[0].getsockname()[:2])
        log.info("mirrortap's mirror is listening on %s://%s", scheme, place)
    return service, [*doors, Closing(service, doors)]


def _check(service: Service) -> None:
    for mode in ctx.options.mode:
        if why := rules.unfit(service.config.admission, ProxyMode.parse(mode).type_name):
            raise exceptions.OptionsError(why)


addons = [Mirrortap()]
