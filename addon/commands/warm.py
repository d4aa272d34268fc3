"""`mirrortap warm`: images pulled into the cache before anybody asks for them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from addon import journal
from addon.cache.store import StoreError
from addon.commands.options import CONFIGS, DATA
from addon.commands.references import ImageName
from addon.config.load import load
from addon.config.model import ConfigError
from addon.fingerprints import FingerprintError
from addon.loop import Loop
from addon.parent import ParentError, Parents
from addon.warming import opening, outcome
from addon.warming.display import display
from addon.warming.platforms import BadPlatform, Platform, this_machine
from addon.warming.sources.reading import STDIN, Settings, SourceError, read
from addon.warming.wanted import together
from addon.warming.warmer import CacheUnwritable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from addon.cache.reference import Reference
    from addon.config.model import Config
    from addon.warming.display import Bars, Lines
    from addon.warming.outcome import Outcome
    from addon.warming.wanted import Wanted
    from addon.warming.warmer import Warmer

_KEPT = "what has come is kept: the same command goes on from there"


class _Platform(click.ParamType[Platform]):
    """OS/ARCHITECTURE[/VARIANT]."""

    name = "platform"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        try:
            return Platform.parse(value)
        except BadPlatform as error:
            self.fail(str(error), param, ctx)


@click.command("warm")
@click.argument("images", metavar="[IMAGE]...", nargs=-1, type=ImageName())
@click.option(
    "--from",
    "files",
    metavar="FILE",
    multiple=True,
    help="All images that a Dockerfile, a compose file, Kubernetes manifests or a list (one a line; - is standard"
    " input) names. May be given several times.",
)
@click.option(
    "--platform",
    "platforms",
    type=_Platform(),
    multiple=True,
    help="As linux/arm64 or linux/arm/v7. May be given several times.  [default: this machine's]",
)
@click.option("--all-platforms", is_flag=True, help="All that an image has, with its attestations.")
@click.option(
    "--build-arg",
    "arguments",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="For ARG before FROM in Dockerfiles; without a value that of the environment. May be given several times.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N", help="Blobs at a time.")
@CONFIGS
@DATA
def warm(
    images: tuple[Reference, ...],
    files: tuple[str, ...],
    platforms: tuple[Platform, ...],
    all_platforms: bool,
    arguments: tuple[str, ...],
    jobs: int,
    configs: tuple[Path, ...],
    data: Path,
) -> None:
    """Pull images into the cache, whether the proxy runs or not.

    Ends with 0 when all of them are there, with 1 when something failed, with 2 when it could not begin.
    """
    if not images and not files:
        raise click.UsageError("name an image, or a file that names some with --from")
    if all_platforms and platforms:
        raise click.UsageError("--platform and --all-platforms exclude each other")
    if files.count(STDIN) > 1:
        raise click.UsageError("standard input can be read but once: name --from - once")
    targets = None if all_platforms else platforms or (this_machine(),)
    try:
        config, parents = load(configs), Parents.from_environment(os.environ)
        if config.offline:
            raise ConfigError(
                f"{', '.join(map(str, config.sources))}: mirrortap is offline (offline = true): nothing can be fetched"
            )
        wanted = _wanted(images, files, _settings(arguments, targets))
    except (ConfigError, ParentError, SourceError) as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    with display(Console(stderr=True)) as shown:
        run = _Run(config, data, parents, jobs, shown)
        try:
            code = asyncio.run(run.until_end(wanted), loop_factory=Loop)
        except (StoreError, FingerprintError) as error:
            code = 2
            run.last.append(f"mirrortap: {error}")
    for line in run.last:
        click.echo(line, err=True)
    if run.summary:
        click.echo(run.summary)
    sys.exit(code)


def _settings(arguments: Iterable[str], targets: Sequence[Platform] | None) -> Settings:
    values = {}
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if has_value:
            values[name] = value
        elif name in os.environ:
            values[name] = os.environ[name]
    return Settings(values, os.environ, this_machine(), targets)


def _wanted(images: Iterable[Reference], files: Iterable[str], settings: Settings) -> list[Wanted]:
    """Raises SourceError."""
    named: list[tuple[Reference, Platform | None]] = [(image, None) for image in images]
    for file in files:
        found = read(file, settings)
        named += found.images
        for note in found.notes:
            click.echo(note, err=True)
    return together(named, settings.targets)


class _Run:
    """`last`: what is to be said at the end; `summary`: what came of it."""

    def __init__(self, config: Config, data: Path, parents: Parents, jobs: int, shown: Bars | Lines) -> None:
        self.last: list[str] = []
        self.summary = ""
        self._config = config
        self._data = data
        self._parents = parents
        self._jobs = jobs
        self._shown = shown

    async def until_end(self, wanted: Sequence[Wanted]) -> int:
        """The exit code. Raises StoreError or FingerprintError."""
        task = asyncio.current_task()
        assert task
        signals: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            # Once: what is being closed then must not be broken off.
            if not signals:
                signals.append(number)
                self._shown.hush()
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        try:
            async with opening.opened(self._config, self._data, self._parents, self._jobs, self._shown) as warmer:
                return self._tell(await warmer.warm(wanted), warmer)
        except CacheUnwritable as error:
            self.last.append(f"mirrortap: {error}; {_KEPT} when there is room")
            return 1
        except asyncio.CancelledError:
            if not signals:
                raise
            self.last.append(f"mirrortap: stopped; {_KEPT}")
            return 128 + signals[0]

    def _tell(self, outcomes: Sequence[Outcome], warmer: Warmer) -> int:
        failed = [each for each in outcomes if each.problems]
        self.summary = outcome.summary(outcomes, warmer.downloaded)
        if surplus := warmer.surplus():
            self.last.append(
                f"{self._data}: {journal.size(surplus)} more is cached than cache-size and min-free allow: a proxy"
                " evicts what was not used for longest; mirrortap cache pin keeps an image"
            )
        self.last += [f"mirrortap: {each.failure}" for each in failed]
        return 1 if failed else 0
