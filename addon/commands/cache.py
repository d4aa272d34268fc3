"""The `mirrortap cache` commands: what an operator does with a cache, also while the proxy runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from addon import journal
from addon.cache import pins, verify
from addon.cache.store import StoreError
from addon.commands.cache_export import export_command
from addon.commands.cache_import import import_command
from addon.commands.cache_ls import ls_command, show_command
from addon.commands.cache_prune import prune_command
from addon.commands.cached import REFERENCES, opened, progress
from addon.commands.options import DATA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from addon.cache.cache import Cache
    from addon.cache.reference import Reference
    from addon.cache.store import Store
    from addon.oci import Digest


@click.group()
def cache() -> None:
    """Look after what is cached, whether the proxy runs or not."""


for command in ls_command, show_command, prune_command, export_command, import_command:
    cache.add_command(command)


@cache.command("verify")
@DATA
def verify_command(data: Path) -> None:
    """Hold every cached file against its digest, and remove what is damaged or does not belong there.

    What was damaged is downloaded anew when it is asked for. Exits with 1 if anything was.
    """
    with opened(data) as cache:
        store, contents = cache.store, cache.contents
        damaged, count, size = 0, 0, 0
        known = contents.known()
        files = list(store.contents())
        contents.reconcile(known, files)
        with progress("Checking", sum(file.size for file in files)) as checked:
            for file in files:
                sound = _sound(store, file.digest, checked)
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
@REFERENCES
@DATA
def pin_command(references: tuple[Reference, ...], data: Path) -> None:
    """Never evict these tags or digests, and all that they refer to.

    A tag that moves has its newest content pinned. What is not cached yet is kept from its first pull on.
    """
    with opened(data) as cache:
        for reference in references:
            cache.pins.add(reference)
            if reference not in cache.pins.all():
                raise StoreError(f"{cache.folder}: {reference} could not be pinned")
            click.echo(_described(cache, reference))


@cache.command("unpin")
@REFERENCES
@DATA
def unpin_command(references: tuple[Reference, ...], data: Path) -> None:
    """Let these tags or digests be evicted again."""
    with opened(data) as cache:
        for reference in references:
            if reference not in cache.pins.all():
                raise StoreError(f"{reference} is not pinned; mirrortap cache pins lists what is")
            cache.pins.remove(reference)
            if reference in cache.pins.all():
                raise StoreError(f"{cache.folder}: {reference} could not be unpinned")


@cache.command("pins")
@DATA
def pins_command(data: Path) -> None:
    """List what is pinned, and how much of it is cached."""
    with opened(data) as cache:
        for reference in cache.pins.all():
            click.echo(_described(cache, reference))


def _described(cache: Cache, reference: Reference) -> str:
    held = pins.held(cache.store, [cache.pins.pointers(reference)])
    sizes = [size for digest in held if (size := cache.store.size(digest))]
    if not sizes:
        return f"{reference}  nothing of it is cached yet"
    return f"{reference}  {len(sizes)} files, {journal.size(sum(sizes))}"


def _sound(store: Store, digest: Digest, progress: Callable[[int], None]) -> bool | None:
    """None if it has been evicted meanwhile. Raises OSError."""
    try:
        fd = store.open(digest)
    except FileNotFoundError:
        return None
    try:
        return verify.sound(fd, digest, progress)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
