"""Standard input, output and error: they may be closed from the start, and refuse what is written."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_OUTPUT = "standard output"


class _Output(io.TextIOWrapper):
    """Whose errors name it, as those of files do."""

    def write(self, text: str) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


def complete() -> None:
    """Opens those that are closed: the next file would be in their place, and get what is written to them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115


@contextmanager
def checked() -> Iterator[None]:
    """That standard output cannot be written ends the program: without a word where its reader has gone."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out is sys.__stdout__:
        # As on stderr, what has no code there, like a byte of a file's name that is not UTF-8, is written out.
        errors = "backslashreplace" if out.errors == "strict" else out.errors
        sys.stdout = _Output(out.buffer, out.encoding, errors, line_buffering=out.line_buffering)
    try:
        try:
            yield
        finally:
            # Now, for nobody could be told of it when Python ends.
            sys.stdout.flush()
    except OSError as error:
        if error.filename != _OUTPUT:
            raise
        if not isinstance(error, BrokenPipeError):
            click.echo(f"mirrortap: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT
        # What is still in the buffer must not fail once more.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        raise
