"""`mirrortap trust`: have a builder trust the CA, and undo that."""

from __future__ import annotations

import http.client
import ipaddress
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import click

from addon.config import wellknown
from addon.home import NoHome, home_folder
from addon.running import default_data
from ca.authority import AuthorityError, dns_name
from ca.files import NEXT_CRT, OLD_CRT, ROOT_CRT
from ca.trust import facts, targets
from ca.trust.apply import Applier
from ca.trust.certificates import Bundle
from ca.trust.errors import TrustError
from ca.trust.plan import Place, Plan, Wanted
from ca.trust.targets import Target
from ca.trust.tree import Tree

_HERE = "http://127.0.0.1:3128"
_SOMEWHERE = "http://PROXY:3128"
_MOST = 1 << 20  # bytes of a CA file
_TIMEOUT = 10  # seconds


class _Target(click.ParamType[Target]):
    name = "target"

    def convert(self, value: str | Target, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        target = value if isinstance(value, Target) else targets.find(value)
        if target is None:
            self.fail(f"{value!r} is no target. There are:\n{_KINDS}\nand also {_ALIASES}.", param, ctx)
        return target


class _Host(click.ParamType[str]):
    """HOST or HOST:PORT of a registry, as in image names; Docker Hub under one name."""

    name = "host"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name, colon, port = value.partition(":")
        try:
            host = wellknown.canonical(dns_name(name))
        except AuthorityError as error:
            self.fail(str(error), param, ctx)
        if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            self.fail(f"{value!r} is no registry as in image names, like ghcr.io or registry.corp:5000", param, ctx)
        return f"{host}:{int(port)}" if colon else host


class _Proxy(click.ParamType[str]):
    """http://HOST:PORT."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        wrong = f"{value!r} is not the URL of a proxy, like http://mirrortap.corp:3128"
        try:
            url = urlsplit(value)
            host, port = url.hostname or "", url.port
        except ValueError:
            self.fail(wrong, param, ctx)
        if url.username is not None:
            # Not repeated here: it is a secret.
            self.fail("leave the login out: it would be in files that everybody can read", param, ctx)
        if url.scheme != "http" or not port or url.path not in ("", "/") or url.query or url.fragment:
            self.fail(wrong, param, ctx)
        return f"http://{self._host(host, wrong, param, ctx)}:{port}"

    def _host(self, host: str, wrong: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            try:
                return dns_name(host)
            except AuthorityError:
                self.fail(wrong, param, ctx)
        return f"[{address}]" if address.version == 6 else str(address)


@dataclass(frozen=True)
class _Source:
    """Where the CA is to come from, as far as that was said."""

    file: Path | None
    data: Path | None
    proxy: str | None

    @property
    def proxy_url(self) -> str:
        return self.proxy or (_SOMEWHERE if self.file else _HERE)

    def read(self) -> Bundle:
        """Raises TrustError."""
        if self.proxy and not self.file and not self.data:
            return _fetched(f"{self.proxy}/ca.crt")
        if self.file:
            return Bundle.parse(self._bytes(self.file), str(self.file))
        try:
            folder = (self.data or default_data()) / "ca"
        except NoHome as error:
            raise TrustError(f"{error}: name the proxy's folder with --data, or set XDG_DATA_HOME") from None
        # While a CA is rotated, both.
        others = [path for path in (folder / NEXT_CRT, folder / OLD_CRT) if os.path.exists(path)]
        return Bundle.parse(b"".join(map(self._bytes, (folder / ROOT_CRT, *others))), str(folder / ROOT_CRT))

    def _bytes(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(_MOST)
        except OSError as error:
            where = "" if self.file else "; name the proxy with --proxy http://HOST:3128, or a copy with --ca FILE"
            raise TrustError(f"{path}: the CA cannot be read: {error.strerror}{where}") from None


_KINDS = "\n".join(f"  {each.name:15} {each.summary}" for each in targets.ALL)
_ALIASES = ", ".join(f"{alias} ({name})" for alias, name in targets.ALIASES.items())


@click.command(help=f"Have a builder trust the CA.\n\n\b\nTARGET is one of\n{_KINDS}\n\nand also {_ALIASES}.")
@click.argument("target", type=_Target())
@click.option(
    "--host", "hosts", multiple=True, type=_Host(), help="A registry; may be repeated.  [default: public ones]"
)
@click.option("--ca", "file", type=click.Path(path_type=Path), metavar="FILE", help="The CA's certificate in PEM.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="The proxy's data folder.  [default: XDG data home]"
)
@click.option(
    "--proxy", type=_Proxy(), help="http://HOST:PORT of the proxy; the CA is fetched there without --ca, --data."
)
@click.option("--fingerprint", metavar="SHA256", help="Refuse a CA with another fingerprint.")
@click.option("--root", default="/", metavar="DIR", help="The tree of another system or an image, instead of this one.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="For kubernetes and github-actions: write there."
)
@click.option("--image", metavar="NAME", help="For kubernetes: an image with sh and nsenter.  [default: busybox]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--uninstall", is_flag=True, help="Undo it, for all hosts or for those of --host.")
@click.option("--force", is_flag=True, help="Write over files of others, which --uninstall brings back.")
def trust(
    target: Target,
    hosts: tuple[str, ...],
    file: Path | None,
    data: Path | None,
    proxy: str | None,
    fingerprint: str | None,
    root: str,
    output: Path | None,
    image: str | None,
    dry_run: bool,
    uninstall: bool,
    force: bool,
) -> None:
    if file and data:
        raise click.UsageError("--ca and --data both say where the CA is; leave one out")
    if hosts and not target.per_host:
        raise click.UsageError(f"{target.name} is for all hosts; leave out --host")
    if hosts and uninstall and target.together:
        raise click.UsageError(f"{target.name} has one file for all hosts; leave out --host")
    if (output or image) and not target.elsewhere:
        raise click.UsageError("--output and --image are for kubernetes and github-actions")
    if target.elsewhere and root != "/":
        raise click.UsageError(f"{target.name} puts nothing into a tree; leave out --root")
    if target.elsewhere and not uninstall and not proxy:
        raise click.UsageError("other machines must be told where the proxy is: --proxy http://HOST:3128")
    source = _Source(file, data, proxy)
    try:
        tree = Tree(root)
        for_himself = target.per_user and tree.whole and os.geteuid() != 0
        home = _home(target) if for_himself else None
        bundle = None if uninstall else _checked(source.read(), fingerprint)
        wanted = Wanted(
            bundle,
            tuple(dict.fromkeys(hosts)) or _public(target),
            source.proxy_url,
            facts.system(tree) if target.name == "system" else Wanted.system,
            home,
            image or Wanted.image,
            uninstall,
        )
        plan = target.plan(wanted)
        if target.elsewhere:
            _hand_out(plan, output, dry=dry_run, force=force)
            return
        record = home / ".local/state/mirrortap/trust.json" if home else Place.record
        applier = Applier(Place(root, record), target.name, click.echo, dry=dry_run, force=force)
        if not uninstall:
            applier.install(plan)
        elif not applier.uninstall(plan, hosts):
            click.echo(f"Nothing to undo: no {target.name} of `mirrortap trust` is here{_for(hosts)}.")
            return
        if not dry_run:
            click.echo(f"\n{plan.undone if uninstall else plan.next}")
    except TrustError as error:
        click.echo(f"mirrortap: {error}", err=True)
        sys.exit(2)


def _home(target: Target) -> PurePosixPath:
    try:
        return PurePosixPath(home_folder())
    except NoHome as error:
        raise TrustError(f"{error}: set HOME to that of the user who pulls") from None


def _public(target: Target) -> tuple[str, ...]:
    """The registries that are intercepted without being configured, as far as they can be named one by one."""
    if not target.per_host:
        return ()
    names = [name for name in wellknown.registries() if "*" not in name]
    # dockerd would not look there.
    return tuple(name for name in names if target.name != "docker" or name != "docker.io")


def _for(hosts: tuple[str, ...]) -> str:
    return f" for {', '.join(hosts)}" if hosts else ""


def _checked(bundle: Bundle, fingerprint: str | None) -> Bundle:
    for subject, found in zip(bundle.subjects, bundle.fingerprints, strict=True):
        click.echo(f"CA: {subject}\n    SHA-256 {found}", err=True)
    click.echo(f"    from {bundle.source}", err=True)
    if fingerprint is None:
        if bundle.source.startswith("http:"):
            click.echo(
                "    Compare that with what the proxy says when it starts: nothing protected it on its way.", err=True
            )
    elif {_hex(fingerprint)} != {_hex(found) for found in bundle.fingerprints}:
        raise TrustError(
            f"{bundle.source}: is not the CA with the fingerprint {fingerprint}, or not that alone; nothing was changed"
        )
    return bundle


def _hex(fingerprint: str) -> str:
    return fingerprint.replace(":", "").upper()


def _fetched(url: str) -> Bundle:
    # Past any proxy that the environment names: it is the proxy itself that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            data = answer.read(_MOST)
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise TrustError(f"{url}: the CA cannot be fetched: {reason}; is the proxy running there?") from None
    except http.client.HTTPException as error:
        raise TrustError(
            f"{url}: the CA cannot be fetched: {error or type(error).__name__}; is that a proxy?"
        ) from None
    return Bundle.parse(data, url)


def _hand_out(plan: Plan, output: Path | None, *, dry: bool, force: bool) -> None:
    """The document goes where it was wanted; what to do with it is said beside it."""
    if output and plan.document:
        _write(output, plan.document.encode(), dry=dry, force=force)
    else:
        click.echo(plan.document, nl=False)
    click.echo(f"\n{plan.next or plan.undone}".replace("FILE", str(output or "FILE")), err=True)


def _write(path: Path, data: bytes, *, dry: bool, force: bool) -> None:
    try:
        there = path.read_bytes() if path.exists() else None
        if there == data:
            click.echo(f"already there: {path}", err=True)
            return
        if there is not None and not force:
            raise TrustError(
                f"{path}: is there, and something else; choose another --output, or write over it with --force"
            )
        if not dry:
            path.write_bytes(data)
        click.echo(f"{'would write' if dry else 'wrote'}: {path}", err=True)
    except OSError as error:
        raise TrustError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
