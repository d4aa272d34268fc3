"""`mirrortap cache import`: images from an archive, so that the proxy serves them without asking anybody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from addon import journal
from addon.carrying import members
from addon.carrying.intake import Intake, Taken
from addon.carrying.names import BadArchive
from addon.commands.cached import opened, progress
from addon.commands.options import DATA
from addon.commands.references import ImageName
from addon.config import wellknown

if TYPE_CHECKING:
    from addon.cache.reference import Reference


@click.command("import")
@click.argument("archive", metavar="FILE|DIR|-", type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--as", "called", type=ImageName(), help="What the one image in it is called.")
@click.option("--partial", is_flag=True, help="Import images as well of which not all is in the archive.")
@DATA
def import_command(archive: Path, called: Reference | None, partial: bool, data: Path) -> None:
    """Take images into the cache: an OCI image layout (folder or tar, also .gz or .zst) or what `docker save` wrote.

    The proxy may run meanwhile; an empty folder becomes a cache. Everybody who may use the proxy can read what is
    imported, unless the cache knows its repository as private. Exits with 1 if an image was not imported, with 2 if
    nothing was, for the archive is damaged or none.
    """
    path = None if str(archive) == "-" else archive
    whole = path.stat().st_size if path and path.is_file() else None
    with opened(data, make=True) as cache:
        try:
            with progress("Importing", whole) as done, Intake(cache, done) as intake, members.opened(path) as found:
                for member in found:
                    intake.take(member)
                results = intake.adopt(called, partial=partial)
        except BadArchive as error:
            click.echo(f"mirrortap: {archive}: {error}", err=True)
            click.echo("Nothing of it was imported.", err=True)
            sys.exit(2)
    failed, strange = 0, set()
    for result in results:
        if isinstance(result, Taken):
            parts = [part for part in result.tree.parts if part.size is not None]
            click.echo(f"imported {result.reference}  {len(parts)} files, {journal.size(result.tree.held)}")
            if result.private:
                click.echo(
                    f"  stays private, as {result.reference.registry}/{result.reference.repository} was in this cache:"
                    " only clients who have shown that they may read it get it"
                )
            if not wellknown.is_public(result.reference.registry):
                strange.add(result.reference.registry)
        else:
            failed += 1
            click.echo(f"not imported: {result.called}: {result.why}", err=True)
    for registry in sorted(strange):
        click.echo(f'Clients get the images of {registry} if the configuration has a table [registry."{registry}"].')
    sys.exit(1 if failed else 0)
