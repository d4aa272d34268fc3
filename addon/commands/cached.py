"""What the `mirrortap cache` commands have in common: their folder, how images are named, what is shown of them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from addon.cache import ownership
from addon.cache.cache import Cache
from addon.cache.store import StoreError
from addon.commands.references import ImageName
from addon.config.model import Beliefs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from addon.cache.images import Image


REFERENCES = click.argument("references", metavar="REFERENCE...", nargs=-1, required=True, type=ImageName())


@contextmanager
def opened(data: Path, *, make: bool = False) -> Iterator[Cache]:
    """The cache of a data folder; what is wrong with it ends the command.

    `make`: it is made where it is missing, for something is to be put into it.
    """
    folder = data / "cache"
    try:
        if make:
            ownership.check(data)
        elif not (folder / "oci-layout").exists():
            raise StoreError(f"{folder}: there is no cache; name the proxy's folder with --data")
        # How long things are believed is the proxy's affair: these commands ask nobody.
        with _stoppable(), closing(Cache(folder, Beliefs)) as cache:
            yield cache
    except StoreError as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        click.echo(f"mirrortap: {error.filename or folder}: {error.strerror}", err=True)
        sys.exit(2)


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal ends the command as an exception does, so that nothing unfinished is left behind."""

    def stop(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        sys.exit(128 + number)

    signals: list[signal.Signals] = []
    # Signals are for the main thread. One that is ignored (nohup) stays so.
    if threading.current_thread() is threading.main_thread():
        signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in signals:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def known(data: Path) -> Iterator[Cache]:
    """As `opened`; what a lost database does not say is found out from the files."""
    with opened(data) as cache:
        if not any(cache.tags.all()):
            cache.reconcile()
        yield cache


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows bytes of `total` on a terminal; None: nobody knows how many come."""
    if not sys.stderr.isatty() or total is None:
        yield lambda count: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


def here(image: Image) -> str:
    """How much of an image is cached, for people."""
    parts = [part for part in image.tree.parts if not part.spare]
    held = sum(part.size is not None for part in parts)
    if held == len(parts):
        return "all"
    if image.tree.kind == "index":
        return f"{sum(complete for _, complete in image.platforms)} of {len(image.platforms)} platforms"
    return f"{held} of {len(parts)} blobs"


def ago(when: float) -> str:
    """A time, in seconds since the epoch, for people; 0 where it is not known."""
    if not when:
        return "not known"
    seconds = max(0.0, time.time() - when)
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if (count := int(seconds // unit)) >= 1:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def marks(image: Image) -> list[str]:
    return [mark for mark, holds in (("pinned", image.pinned), ("private", not image.public)) if holds]
