"""`mirrortap cache export`: images as an OCI image layout, to be carried where there is no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from addon import journal
from addon.cache import trees
from addon.cache.images import Images
from addon.cache.store import StoreError
from addon.carrying import selection, writing
from addon.carrying.writing import Cargo, Damaged
from addon.commands.cached import known, progress
from addon.commands.options import DATA
from addon.commands.references import ImageName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.cache.cache import Cache
    from addon.cache.images import Image
    from addon.cache.reference import Reference
    from addon.carrying.selection import Selection


class _Incomplete(Exception):
    """What was asked for is not all here; the message says what, and what to do."""


@click.command("export")
@click.argument("references", metavar="[REFERENCE]...", nargs=-1, type=ImageName())
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.tar|DIR|-",
    help="A tar, if its name ends in .tar, a new folder, or a tar to standard output.",
)
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Only this one of an image's; may be repeated."
)
@click.option("--partial", is_flag=True, help="Take what there is of images that are not complete.")
@DATA
def export_command(
    references: tuple[Reference, ...], output: Path, platforms: tuple[str, ...], partial: bool, data: Path
) -> None:
    """Write images to an OCI image layout: all that are complete, unless some are named.

    Of an image for several platforms those that are complete go along; its index stays as it is. What is written can
    be read by `mirrortap cache import`, skopeo, podman, ctr and docker load (25 and newer).
    """
    if output.suffix in (".gz", ".tgz", ".zst", ".xz", ".bz2"):
        raise click.UsageError(f"{output}: layers are compressed already; name it .tar")
    if str(output) == "-" and sys.stdout.isatty():
        raise click.UsageError("a tar is nothing to read: send standard output to a file or a program")
    with known(data) as cache:
        try:
            cargo = _cargo(cache, references, platforms, partial=partial)
            with progress("Exporting", cargo.size) as checked:
                if str(output) == "-":
                    writing.to_tar(sys.stdout.buffer, cargo, cache.store, checked)
                    sys.stdout.buffer.flush()
                elif output.suffix == ".tar":
                    _free_for(output, a_folder=False)
                    with writing.replacing(output) as prepared, open(prepared, "xb") as file:
                        writing.to_tar(file, cargo, cache.store, checked)
                        file.flush()
                        os.fsync(file.fileno())
                else:
                    _free_for(output, a_folder=True)
                    with writing.replacing(output) as prepared:
                        writing.to_folder(prepared, cargo, cache.store, checked)
        except (_Incomplete, Damaged) as error:
            click.echo(f"mirrortap: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StoreError(
                f"{error.filename or output}: {error.strerror}; choose another place with --output"
            ) from None
    for reference, _ in cargo.images:
        click.echo(f"exported {reference}", err=True)
    click.echo(f"{len(cargo.parts)} files, {journal.size(cargo.size)}", err=True)


def _free_for(output: Path, *, a_folder: bool) -> None:
    """Raises StoreError where something is in the way."""
    if not output.parent.is_dir():
        raise StoreError(f"{output.parent}: there is no such folder to write to")
    if a_folder and output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise StoreError(f"{output}: is there already; name a new folder, or a file that ends in .tar")
    if not a_folder and output.is_dir():
        raise StoreError(f"{output}: is a folder; name a file")


def _cargo(cache: Cache, references: Sequence[Reference], platforms: Sequence[str], *, partial: bool) -> Cargo:
    """Raises _Incomplete."""
    images = _settled(cache, references)
    if references:
        chosen = [_named(images, reference) for reference in dict.fromkeys(references)]
        selected = [(image, _selected(images, image, platforms)) for image in chosen]
        wrong = [told for image, each in selected if (told := _wrong(image, each, partial=partial))]
        if wrong:
            raise _Incomplete("\n".join(wrong))
    else:
        selected = []
        for image in images.all():
            each = _selected(images, image, platforms)
            if told := _wrong(image, each, partial=partial):
                click.echo(f"left out: {told}", err=True)
            else:
                selected.append((image, each))
        if not selected:
            raise _Incomplete("no image is complete; mirrortap cache ls lists what there is")
    selected.sort(key=lambda each: str(each[0].reference))
    parts = {part.digest: part for _, each in selected for part in each.parts}
    for image, _ in selected:
        if not image.public:
            click.echo(
                f"{image.reference} is private: whoever has the archive can read it, and so can everybody who may use"
                " a proxy that it is imported for",
                err=True,
            )
    return Cargo([(image.reference, image.tree) for image, _ in selected], list(parts.values()))


def _settled(cache: Cache, references: Sequence[Reference]) -> Images:
    """The images, when what was just pulled is on the disk."""
    images = Images(cache)
    looked = [images.named(reference) for reference in references] if references else images.all()
    missing = [part for image in looked if image for part in image.tree.missing]
    for part in missing:
        cache.store.settle(part.digest, part.announced)
    return Images(cache) if missing else images


def _named(images: Images, reference: Reference) -> Image:
    """Raises _Incomplete."""
    image = images.named(reference)
    if image is None:
        raise _Incomplete(f"{reference} is not cached; mirrortap warm {reference} pulls it")
    return image


def _selected(images: Images, image: Image, platforms: Sequence[str]) -> Selection:
    return selection.select(image.tree, list(trees.platforms(image.tree, images.platform)), platforms)


def _wrong(image: Image, selected: Selection, *, partial: bool) -> str:
    """Why it cannot be exported, "" if it can."""
    if selected.absent:
        return f"{image.reference}: {'; '.join(selected.absent)}"
    if partial or not selected.missing:
        return ""
    more = f" and {len(selected.missing) - 1} more" if len(selected.missing) > 1 else ""
    return (
        f"{image.reference}: is not all here: {selected.missing[0]}{more}; mirrortap warm {image.reference} gets the"
        " rest, or --partial takes what there is"
    )
