"""The `mirrortap` command."""

from __future__ import annotations

import signal
from importlib import import_module
from typing import Any, ClassVar

import click

from addon import __version__
from addon.commands import streams


class _Commands(click.Group):
    """Each is imported when it is asked for: mitmproxy alone takes a second, which completion would wait for."""

    # Module below addon.commands, and the command in it, by name.
    _PLACES: ClassVar[dict[str, tuple[str, str]]] = {
        "ca": ("ca", "ca"),
        "cache": ("cache", "cache"),
        "completion": ("completion", "completion"),
        "config": ("config", "config"),
        "doctor": ("doctor", "doctor"),
        "restart": ("restart", "restart"),
        "serve": ("serve", "serve_command"),
        "status": ("status", "status"),
        "trust": ("trust", "trust"),
        "warm": ("warm", "warm"),
    }

    def main(self, *args: Any, **extra: Any) -> Any:
        streams.complete()
        with streams.checked():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # click's own code, 1, says that something has failed.
            click.echo("\nmirrortap: stopped", err=True)
            ctx.exit(128 + signal.SIGINT)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._PLACES:
            return None
        module, name = self._PLACES[cmd_name]
        command: click.Command = getattr(import_module(f"addon.commands.{module}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """An HTTPS proxy that serves container image pulls from mirrors and a cache."""


if __name__ == "__main__":
    main()
