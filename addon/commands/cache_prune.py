"""`mirrortap cache prune`: what an operator does not want to keep."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click
from pydantic import TypeAdapter, ValidationError

from addon import journal
from addon.cache import pins, pruning
from addon.cache.images import Images
from addon.cache.pruning import Wish
from addon.cache.store import StoreError
from addon.commands.cached import known
from addon.commands.options import DATA
from addon.commands.references import ImageName
from addon.config.values import Positive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from addon.cache.cache import Cache
    from addon.cache.contents import Entry
    from addon.cache.images import Image
    from addon.cache.reference import Reference
    from addon.cache.store import File


class _Age(click.ParamType[float]):
    """A duration, as in configuration files; seconds."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return TypeAdapter[float](Positive).validate_python(value)
        except ValidationError:
            self.fail(f"{value!r} is not a duration: write 30d, 12h or 45m", param, ctx)


@click.command("prune")
@click.argument("references", metavar="[REFERENCE]...", nargs=-1, type=ImageName())
@click.option("--older-than", "age", type=_Age(), metavar="30d", help="What was not used for so long.")
@click.option("--untagged", is_flag=True, help="What no tag leads to.  [default, unless something else is said]")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@DATA
def prune_command(
    references: tuple[Reference, ...],
    age: float | None,
    untagged: bool,
    everything: bool,
    dry_run: bool,
    yes: bool,
    data: Path,
) -> None:
    """Remove images from the cache: those for which all holds that is said here.

    What is pinned stays, and so does what another image needs. What is in use stays for now. Unless images are named,
    what is left of broken downloads goes as well. All of it is downloaded anew when it is asked for.
    """
    if everything and (references or age is not None or untagged):
        raise click.UsageError("--all is everything: leave out what else is said, or leave out --all")
    wish = Wish(
        time.time() - age if age is not None else None,
        untagged or not (everything or references or age is not None),
        frozenset(references),
    )
    with known(data) as cache:
        images, entries = _going(cache, wish)
        leftovers = [] if references else [file for file in cache.store.partials() if _old(file, wish)]
        for image in images:
            click.echo(f"{image.reference}  {journal.size(image.tree.held)}")
        size = sum(entry.size for entry in entries) + sum(file.size for file in leftovers)
        what = f"{_files(len(entries) + len(leftovers))}, {journal.size(size)}"
        if dry_run:
            click.echo(f"would go: {what}")
            return
        if (images or size) and not yes and sys.stdin.isatty() and not click.confirm(f"Remove {what}?"):
            sys.exit(1)
        _remove(cache, images, entries, leftovers)


def _going(cache: Cache, wish: Wish) -> tuple[list[Image], list[Entry]]:
    known = cache.contents.known()
    cache.contents.reconcile(known, list(cache.store.contents()))
    images = Images(cache).all()
    for reference in sorted(wish.named, key=str):
        image = next((image for image in images if image.reference == reference), None)
        if image is None:
            raise StoreError(f"{reference} is not cached; mirrortap cache ls lists what is")
        if image.pinned:
            raise StoreError(f"{reference} is pinned; mirrortap cache unpin lets it go")
    pinned = pins.held(cache.store, [cache.pins.pointers(reference) for reference in cache.pins.all()])
    return pruning.going(wish, images, cache.contents.by_use(), pinned)


def _old(file: File, wish: Wish) -> bool:
    return wish.before is None or file.modified < wish.before


def _remove(cache: Cache, images: Sequence[Image], entries: Sequence[Entry], leftovers: Sequence[File]) -> None:
    # First what is known of it, so that no tag leads to an image of which only a part is left.
    for image in images:
        registry, repository, target = image.reference.registry, image.reference.repository, image.reference.target
        if isinstance(target, str):
            cache.tags.forget(registry, repository, target)
        else:
            cache.links.remove(registry, repository, target)
    gone = [entry for entry in entries if cache.store.evict(entry.digest)]
    cache.contents.evicted(gone)
    dropped = [file for file in leftovers if cache.store.drop(file.digest)]
    cache.links.prune()
    cache.store.write_index(cache.tags.all())
    freed = sum(entry.size for entry in gone) + sum(file.size for file in dropped)
    click.echo(f"removed: {_files(len(gone) + len(dropped))}, {journal.size(freed)}")
    if staying := len(entries) - len(gone) + len(leftovers) - len(dropped):
        click.echo(f"in use, left alone: {_files(staying)}; they can go later")


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
