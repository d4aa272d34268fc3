"""`mirrortap cache ls` and `show`: which images are cached, and of what one consists."""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from addon import journal
from addon.cache.images import Images
from addon.cache.store import StoreError
from addon.commands.cached import ago, here, known, marks
from addon.commands.options import DATA
from addon.commands.references import ImageName
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from addon.cache.cache import Cache
    from addon.cache.images import Image
    from addon.cache.reference import Reference
    from addon.cache.trees import Tree

# Columns of a terminal below which an image has two lines.
_WIDE = 100

_ORDERS: dict[str, Callable[[Image], Any]] = {
    "name": lambda image: str(image.reference),
    "size": lambda image: -image.tree.held,
    "used": lambda image: -image.used,
}


@click.command("ls")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    default="name",
    show_default=True,
    help="The largest or the last used first.",
)
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@DATA
def ls_command(patterns: tuple[str, ...], sort: str, as_json: bool, data: Path) -> None:
    """List the images that are cached, those alone whose names match a pattern like 'docker.io/library/*'.

    What no tag leads to is listed by its digest. Sizes are those of what is here; the last line counts what images
    share once.
    """
    with known(data) as cache:
        images = [image for image in Images(cache).all() if _matches(image, patterns)]
        images.sort(key=_ORDERS[sort])
        parts = {part.digest: part.size or 0 for image in images for part in image.tree.parts}
        if as_json:
            found = {"images": [_image(image) for image in images], "size": sum(parts.values())}
            click.echo(json.dumps(found, indent=2))
            return
        if sys.stdout.isatty():
            print_table(images, Console())
        else:
            for image in images:
                click.echo("\t".join([str(image.reference), *_columns(image)]))
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        click.echo(f"{count}, {journal.size(sum(parts.values()))}", err=not sys.stdout.isatty())


@click.command("show")
@click.argument("reference", type=ImageName())
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@DATA
def show_command(reference: Reference, as_json: bool, data: Path) -> None:
    """Show all that an image consists of, and what of it is cached."""
    with known(data) as cache:
        images = Images(cache)
        image = images.named(reference)
        if image is None:
            raise StoreError(f"{reference} is not cached; mirrortap cache ls lists what is")
        sharing: dict[Digest, list[str]] = {part.digest: [] for part in image.tree.parts}
        for other in images.all():
            for part in other.tree.parts if other.reference != reference else ():
                if part.digest in sharing:
                    sharing[part.digest].append(str(other.reference))
        checked = _checked(cache, reference)
        if as_json:
            parts = [_part(part, images.used, sharing[part.digest]) for part in image.tree.parts]
            click.echo(json.dumps({**_image(image), "checked": checked, "parts": parts}, indent=2))
            return
        click.echo(str(reference))
        click.echo(f"  digest     {image.tree.digest}")
        click.echo(f"  type       {image.tree.media_type}")
        click.echo(f"  here       {here(image)}, {journal.size(image.tree.held)}")
        for name, complete in image.platforms:
            click.echo(f"  platform   {name or 'not known'}{'' if complete else ', not all of it here'}")
        click.echo(f"  read by    {'everybody' if image.public else 'those who have shown that they may (private)'}")
        click.echo(f"  pinned     {'yes' if image.pinned else 'no'}")
        click.echo(f"  last used  {ago(image.used)}")
        if checked is not None:
            click.echo(f"  checked    {ago(checked)}, with a registry or by an import")
        for part in image.tree.parts:
            click.echo(f"  {part.kind} {part.digest}")
            click.echo(f"    {_described(part, images.used)}")
            for name in sharing[part.digest]:
                click.echo(f"    also in {name}")


def _matches(image: Image, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(str(image.reference), pattern) for pattern in patterns)


def _columns(image: Image) -> list[str]:
    names = ", ".join(name for name, complete in image.platforms if complete and name)
    return [journal.size(image.tree.held), here(image), names or "-", ago(image.used), ", ".join(marks(image)) or "-"]


def print_table(images: list[Image], console: Console) -> None:
    """For people, as wide as their terminal is."""
    if console.width < _WIDE:
        for image in images:
            console.print(Text(str(image.reference), style="bold", overflow="fold"))
            console.print(Text("  " + "; ".join(text for text in _columns(image) if text != "-")))
        return
    table = Table("IMAGE", "SIZE", "HERE", "PLATFORMS", "LAST USED", "", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for image in images:
        table.add_row(*map(Text, (str(image.reference), *_columns(image))))
    console.print(table)


def _image(image: Image) -> dict[str, object]:
    return {
        "reference": str(image.reference),
        "digest": str(image.tree.digest),
        "mediaType": image.tree.media_type,
        "size": image.tree.held,
        "complete": image.tree.complete,
        "here": here(image),
        "platforms": [{"platform": name, "complete": complete} for name, complete in image.platforms],
        "used": image.used,
        "public": image.public,
        "pinned": image.pinned,
    }


def _part(part: Tree, used: dict[Digest, float], sharing: list[str]) -> dict[str, object]:
    return {
        "digest": str(part.digest),
        "kind": part.kind,
        "mediaType": part.media_type,
        "size": part.size if part.size is not None else part.announced,
        "here": part.size is not None,
        "used": used.get(part.digest) if part.size is not None else None,
        "in": sharing,
    }


def _described(part: Tree, used: dict[Digest, float]) -> str:
    size = journal.size(part.announced) if part.announced is not None else "size not known"
    if part.size is None:
        return f"{size}, not here"
    return f"{journal.size(part.size)}, last used {ago(used.get(part.digest, 0.0))}"


def _checked(cache: Cache, reference: Reference) -> float | None:
    """When a tag's digest was last heard of, seconds since the epoch."""
    if isinstance(reference.target, Digest):
        return None
    pointers = cache.tags.pointers(reference.registry, reference.repository, reference.target, frozenset())
    return time.time() - min(pointer.age for pointer in pointers)
