"""`mirrortap config`: what is configured, and whether it works."""

from __future__ import annotations

import click

from addon.commands.config_check import check


@click.group()
def config() -> None:
    """Look at the configuration."""


config.add_command(check)
