"""Images on the command line, as people write them."""

from __future__ import annotations

import click

from addon.cache.reference import BadReference, Reference, normalised


class ImageName(click.ParamType[Reference]):
    """alpine, ghcr.io/owner/image:tag, host:5000/image@sha256:...; under the name that clients' requests have."""

    name = "image"

    def convert(self, value: str | Reference, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        if isinstance(value, Reference):
            return value
        try:
            return normalised(value)
        except BadReference as error:
            self.fail(str(error), param, ctx)
