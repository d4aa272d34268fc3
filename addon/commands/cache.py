"""The `mirrortap cache` commands: what an operator does with a cache, also while the proxy runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from addon import journal
from addon.cache import database, pins, verify
from addon.cache.contents import Contents
from addon.cache.pins import Pins
from addon.cache.reference import BadReference, Reference
from addon.cache.store import Store, StoreError
from addon.cache.tags import Tags
from addon.config import wellknown
from addon.service import default_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from addon.cache.connection import Connection
    from addon.oci import Digest

_DATA = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the CA and the cache.  [default: XDG data home]"
)


class _Reference(click.ParamType[Reference]):
    """REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST, under the name that clients' requests have."""

    name = "reference"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        try:
            reference = Reference.parse(value)
        except BadReference as error:
            self.fail(str(error), param, ctx)
        reference = replace(reference, registry=wellknown.canonical(reference.registry))
        if reference.registry == "docker.io" and "/" not in reference.repository:
            return replace(reference, repository=f"library/{reference.repository}")
        return reference


_REFERENCES = click.argument("references", metavar="REFERENCE...", nargs=-1, required=True, type=_Reference())


@click.group()
def cache() -> None:
    """Look after what is cached, whether the proxy runs or not."""


@cache.command("verify")
@_DATA
def verify_command(data: Path | None) -> None:
    """Hold every cached file against its digest, and remove what is damaged or does not belong there.

    What was damaged is downloaded anew when it is asked for. Exits with 1 if anything was.
    """
    with _opened(data) as (store, connection):
        contents = Contents(store, connection)
        damaged, count, size = 0, 0, 0
        known = contents.known()
        files = list(store.contents())
        contents.reconcile(known, files)
        with _progress(sum(file.size for file in files)) as progress:
            for file in files:
                sound = _sound(store, file.digest, progress)
                if sound is None:
                    continue
                count, size = count + 1, size + file.size
                if sound:
                    contents.checked(file.digest)
                else:
                    damaged += 1
                    store.remove(file.digest)
                    contents.forget(file.digest)
                    click.echo(f"damaged, removed: {store.path(file.digest)}")
        strays = list(store.strays())
        for path in strays:
            _remove(path)
            click.echo(f"not content, removed: {path}")
    click.echo(
        f"{count} files checked, {journal.size(size)}: {damaged} damaged, {len(strays)} that did not belong there"
    )
    sys.exit(1 if damaged else 0)


@cache.command("pin")
@_REFERENCES
@_DATA
def pin_command(references: tuple[Reference, ...], data: Path | None) -> None:
    """Never evict these tags or digests, and all that they refer to.

    A tag that moves has its newest content pinned. What is not cached yet is kept from its first pull on.
    """
    with _opened(data) as (store, connection):
        pinned = Pins(connection, Tags(connection))
        for reference in references:
            pinned.add(reference)
            if reference not in pinned.all():
                raise StoreError(f"{store.folder}: {reference} could not be pinned")
            click.echo(_described(store, pinned, reference))


@cache.command("unpin")
@_REFERENCES
@_DATA
def unpin_command(references: tuple[Reference, ...], data: Path | None) -> None:
    """Let these tags or digests be evicted again."""
    with _opened(data) as (store, connection):
        pinned = Pins(connection, Tags(connection))
        for reference in references:
            if reference not in pinned.all():
                raise StoreError(f"{reference} is not pinned; mirrortap cache pins lists what is")
            pinned.remove(reference)
            if reference in pinned.all():
                raise StoreError(f"{store.folder}: {reference} could not be unpinned")


@cache.command("pins")
@_DATA
def pins_command(data: Path | None) -> None:
    """List what is pinned, and how much of it is cached."""
    with _opened(data) as (store, connection):
        pinned = Pins(connection, Tags(connection))
        for reference in pinned.all():
            click.echo(_described(store, pinned, reference))


def _described(store: Store, pinned: Pins, reference: Reference) -> str:
    sizes = [size for digest in pins.held(store, [pinned.pointers(reference)]) if (size := store.size(digest))]
    if not sizes:
        return f"{reference}  nothing of it is cached yet"
    return f"{reference}  {len(sizes)} files, {journal.size(sum(sizes))}"


@contextmanager
def _opened(data: Path | None) -> Iterator[tuple[Store, Connection]]:
    """The cache of a data folder; what is wrong with it ends the command."""
    folder = (data or default_data()) / "cache"
    try:
        if not (folder / "oci-layout").exists():
            raise StoreError(f"{folder}: there is no cache; name the proxy's folder with --data")
        store = Store(folder)
        with closing(database.connect(folder / "mirrortap.sqlite")) as connection:
            yield store, connection
    except StoreError as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"mirrortap: {error.filename or folder}: {error.strerror}", err=True)
        sys.exit(2)


def _sound(store: Store, digest: Digest, progress: Callable[[int], Any]) -> bool | None:
    """None if it has been evicted meanwhile. Raises OSError."""
    try:
        fd = store.open(digest)
    except FileNotFoundError:
        return None
    try:
        return verify.sound(fd, digest, progress)
    finally:
        os.close(fd)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], Any]]:
    """Shows bytes of `total` on a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=total, label="Checking", file=sys.stderr) as bar:
        yield bar.update


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
