"""The `mirrortap ca` commands: the life of the CA, from its root to its replacement."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from addon.commands.ca_show import described
from addon.commands.options import CONFIGS, DATA, MIRROR_TLS
from addon.config.load import load
from addon.config.model import ConfigError
from ca import files, importing, making, renewing, rotation
from ca.authority import AuthorityError, subtrees
from ca.files import KeyIsEncrypted
from ca.holding import KeyPlace
from ca.issuing import fingerprint
from ca.lives import Lives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ca.holding import Holding

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_keep = click.option(
    "--config",
    "configs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The proxy's configuration.  [default: the hosts stay]",
)
_passphrase_file = click.option("--passphrase-file", type=_FILE, help="Its first line is the key's passphrase.")
_encrypt = click.option("--encrypt", is_flag=True, help="Ask for a passphrase that encrypts the key.")


@click.group()
def ca() -> None:
    """Make, show, renew, replace and import the CA that builders trust."""


@ca.command("init")
@DATA
@CONFIGS
@MIRROR_TLS
@click.option("--root-key", type=click.Path(path_type=Path), help="Where the root's key goes, outside the folder.")
@_passphrase_file
@_encrypt
def init_command(
    data: Path,
    configs: tuple[Path, ...],
    mirror_names: tuple[str, ...],
    root_key: Path | None,
    passphrase_file: Path | None,
    encrypt: bool,
) -> None:
    """Make the CA, with its root's key kept apart or encrypted if that is asked for.

    The proxy makes one by itself at its first start, with the root's key in the folder.
    """
    with _told():
        folder, place = _folder(data), KeyPlace(root_key, _new_passphrase(passphrase_file, encrypt))
        holding = making.init(folder, *_wanted(configs, mirror_names), place)
        click.echo(f"Made a CA in {folder}")
        click.echo(f"  root SHA-256 {fingerprint(holding.root)}, until {holding.end:%Y-%m-%d}")
        _say_key(root_key or folder / files.ROOT_KEY, place, root_key is not None)
        click.echo("Next: start the proxy with the same --data and --config, then on each builder: mirrortap trust")


@ca.command("show")
@DATA
def show_command(data: Path) -> None:
    """Describe the CA: subject, fingerprint, hosts, dates, where its key is, who trusts it on this machine."""
    with _told():
        for line in described(_folder(data)):
            click.echo(line)


@ca.command("renew")
@DATA
@_keep
@MIRROR_TLS
@click.option("--root-key", type=_FILE, help="The root's key, when it is not in the folder.")
@_passphrase_file
def renew_command(
    data: Path,
    configs: tuple[Path, ...],
    mirror_names: tuple[str, ...],
    root_key: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Issue another intermediate now. Builders need nothing, and a running proxy takes it within a minute."""
    with _told():
        folder, (names, lives) = _folder(data), _wanted(configs, mirror_names)
        holding = _unlocked(
            root_key,
            passphrase_file,
            lambda place: renewing.renew(folder, names, lives, place, keep=not (configs or mirror_names)),
        )
        _say_intermediate(holding)
        click.echo("Builders need nothing; a running proxy takes it within a minute.")


@ca.command("rotate")
@DATA
@_keep
@MIRROR_TLS
@click.option("--switch", "step", flag_value="switch", help="Let the new root sign.")
@click.option("--finish", "step", flag_value="finish", help="Remove the old root, after the switch.")
@click.option("--abort", "step", flag_value="abort", help="Remove the new root, before the switch.")
@click.option("--root-key", type=click.Path(path_type=Path), help="The new root's key, outside the folder.")
@_passphrase_file
@_encrypt
def rotate_command(
    data: Path,
    configs: tuple[Path, ...],
    mirror_names: tuple[str, ...],
    step: str | None,
    root_key: Path | None,
    passphrase_file: Path | None,
    encrypt: bool,
) -> None:
    """Replace the root: a new one beside the old, then --switch when all builders trust it, then --finish."""
    with _told():
        folder = _folder(data)
        if step == "switch":
            _switch(folder, configs, mirror_names, root_key, passphrase_file)
        elif step == "finish":
            click.echo(f"Removed the old root, SHA-256 {rotation.finish(folder)}")
            click.echo("Next: remove it from the builders, and its key from wherever else it is kept.")
        elif step == "abort":
            click.echo(f"Removed the new root, SHA-256 {rotation.abort(folder)}. The old one signs as before.")
        else:
            place = KeyPlace(root_key, _new_passphrase(passphrase_file, encrypt))
            holding = rotation.begin(folder, place)
            assert holding.next_root
            click.echo(
                f"Made a new root, SHA-256 {fingerprint(holding.next_root)}, beside the old one, which still signs"
            )
            _say_key(root_key or folder / files.NEXT_KEY, place, root_key is not None)
            click.echo(
                "Next: a running proxy has both under /ca.crt within a minute; have every builder trust both "
                "(mirrortap trust), then: mirrortap ca rotate --switch"
            )


@ca.command("import")
@DATA
@CONFIGS
@MIRROR_TLS
@click.option("--certificate", required=True, type=_FILE, help="The CA certificate, and what is above it, in PEM.")
@click.option("--key", required=True, type=_FILE, help="Its key.")
@click.option("--root", type=_FILE, help="What is above it, up to the root, when that is in another file.")
@_passphrase_file
def import_command(
    data: Path,
    configs: tuple[Path, ...],
    mirror_names: tuple[str, ...],
    certificate: Path,
    key: Path,
    root: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Use a company's own intermediate CA, whose root builders trust already.

    If it permits, an intermediate of our own for the intercepted hosts alone is issued below it.
    """
    with _told():
        folder, (names, lives) = _folder(data), _wanted(configs, mirror_names)
        holding = _unlocked(
            key,
            passphrase_file,
            lambda place: importing.take(folder, names, lives, certificate, place, root),
        )
        click.echo(f"Imported {holding.issuer.subject.rfc4514_string()} into {folder}")
        click.echo(f"  root SHA-256 {fingerprint(holding.root)}")
        if not holding.direct:
            _say_intermediate(holding)
            click.echo(
                f"Next: the proxy needs {holding.key_path} only to renew that one; keep it elsewhere if it is not "
                "limited to these hosts: mirrortap ca renew --root-key FILE"
            )
        elif not holding.permitted:
            click.echo(
                "  WARNING it permits no CA below it and is not limited to certain names: whoever steals\n"
                f"  {holding.key_path} can speak for any host to everybody who trusts that root.\n"
                "  Better have one issued with a path length of 1, or with name constraints.",
                err=True,
            )
        click.echo("Builders that trust this root need nothing.")


def _switch(
    folder: Path,
    configs: tuple[Path, ...],
    mirror_names: tuple[str, ...],
    root_key: Path | None,
    passphrase_file: Path | None,
) -> None:
    names, lives = _wanted(configs, mirror_names)
    holding = _unlocked(
        root_key,
        passphrase_file,
        lambda place: rotation.switch(folder, names, lives, place, keep=not (configs or mirror_names)),
    )
    assert holding.old_root
    click.echo(
        f"The new root signs now, SHA-256 {fingerprint(holding.root)}; a running proxy takes it within a minute."
    )
    _say_intermediate(holding)
    click.echo(
        f"Both are under /ca.crt. The old one is {fingerprint(holding.old_root)}; "
        "when all is well: mirrortap ca rotate --finish"
    )


def _folder(data: Path) -> Path:
    return data / "ca"


def _wanted(configs: Sequence[Path], mirror_names: Sequence[str]) -> tuple[tuple[str, ...], Lives]:
    """The hosts that the proxy has certificates for, and how long these live. Raises ConfigError."""
    read = load(configs)
    lives = Lives(timedelta(seconds=read.lives.leaf), timedelta(seconds=read.lives.intermediate))
    return subtrees([*read.certificate_names(), *mirror_names]), lives


def _new_passphrase(file: Path | None, ask: bool) -> bytes | None:
    if file:
        return files.passphrase(file)
    if not ask:
        return None
    if not sys.stdin.isatty():
        raise AuthorityError(
            "--encrypt asks for the passphrase at a terminal; without one, give --passphrase-file FILE"
        )
    phrase: str = click.prompt("Passphrase for the root's key", hide_input=True, confirmation_prompt=True, err=True)
    return phrase.encode()


def _unlocked(file: Path | None, passphrase_file: Path | None, attempt: Callable[[KeyPlace], Holding]) -> Holding:
    """What `attempt` gives, with the passphrase from the file, or asked for when it turns out to be needed."""
    try:
        return attempt(KeyPlace(file, files.passphrase(passphrase_file) if passphrase_file else None))
    except KeyIsEncrypted:
        if not sys.stdin.isatty():
            raise
    phrase: str = click.prompt("Passphrase of the key", hide_input=True, err=True)
    return attempt(KeyPlace(file, phrase.encode()))


def _say_key(path: Path, place: KeyPlace, elsewhere: bool) -> None:
    click.echo(f"  its key is {'encrypted, ' if place.passphrase else ''}in {path}")
    if elsewhere:
        click.echo("  The proxy does not need it until the intermediate ends or another host is configured.")
        click.echo("  Keep it offline, and a copy of it: without it, every builder must be given another root.")


def _say_intermediate(holding: Holding) -> None:
    assert holding.intermediate
    end = holding.intermediate.certificate.not_valid_after_utc
    click.echo(f"Issued an intermediate CA, until {end:%Y-%m-%d}, for {len(holding.permitted)} hosts")


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong ends the command."""
    try:
        yield
    except (AuthorityError, ConfigError) as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        click.echo(f"mirrortap: {error.filename}: {error.strerror}", err=True)
        sys.exit(2)
