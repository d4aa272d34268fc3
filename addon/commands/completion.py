"""`mirrortap completion`: what a shell reads to complete the command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what has a shell complete commands and options.

    \b
    bash: mirrortap completion bash > ~/.local/share/bash-completion/completions/mirrortap
    zsh:  mirrortap completion zsh > DIR/_mirrortap, DIR being one of $fpath
    fish: mirrortap completion fish > ~/.config/fish/completions/mirrortap.fish
    """
    kind = get_completion_class(shell)
    assert kind
    # The name and the variable are those that click's own `Group.__call__` looks for when it is run as `mirrortap`.
    click.echo(kind(context.find_root().command, {}, "mirrortap", "_MIRRORTAP_COMPLETE").source())
