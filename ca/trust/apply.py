"""Carries plans out, and takes them back. All is looked at before anything is changed."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ca.trust.certificates import missing
from ca.trust.errors import TrustError
from ca.trust.record import File, Record
from ca.trust.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from ca.trust.plan import Place, Plan, Put, Refresh

Say = Callable[[str], None]
_PROGRAMS = ("usr/sbin", "usr/bin", "sbin", "bin")
_PATIENCE = 300  # seconds: a slow disk, and hooks that rebuild Java's store


class Applier:
    """One target in one place. `say` gets a line for each thing done, or to be done when `dry`."""

    def __init__(self, place: Place, target: str, say: Say, *, dry: bool = False, force: bool = False) -> None:
        self._tree = Tree(place.root)
        self._path = place.record
        self._target = target
        self._say = say
        self._dry = dry
        self._force = force
        written = self._tree.read(place.record)
        self._record = Record.parse(written, str(self._tree.real(place.record))) if written else Record()

    def install(self, plan: Plan) -> None:
        """Puts the files, and has the system take notice. Raises TrustError; then, as a rule, nothing was changed."""
        there = {put.path: self._tree.read(put.path) for put in plan.puts}
        wanted = [put for put in plan.puts if there[put.path] != put.data]
        self._check([self._flaw(put, there[put.path]) for put in wanted])
        stale = self._stale(plan)
        bundle = b"".join(put.data for put in plan.puts)
        refresh = plan.refresh if plan.refresh and (wanted or stale or self._lacks(plan.refresh, bundle)) else None
        if refresh and stale:
            refresh = _after_removal(refresh)
        program = self._program(refresh) if refresh else None
        for put in plan.puts:
            if put not in wanted:
                self._say(f"already there: {self._tree.real(put.path)}")
        if self._dry:
            for put in wanted:
                self._say(f"would put: {self._tree.real(put.path)}")
            for path in stale:
                self._say(f"would remove: {self._tree.real(path)}")
            if refresh:
                self._say(self._command(refresh, program, "would run"))
            return
        if wanted or stale:
            self._recorded(lambda: self._put(wanted, stale, there))
        if refresh:
            self._run(refresh, program)
            if program and self._lacks(refresh, bundle):
                raise TrustError(
                    f"{' '.join(refresh.argv)} ran, but {self._tree.real(refresh.bundle)} does not hold the CA; "
                    "see what it says when you run it, and whether other programs write that file"
                )

    def uninstall(self, plan: Plan, hosts: tuple[str, ...] = ()) -> bool:
        """Undoes what was recorded, for all hosts or for these. False when there was nothing to undo."""
        files = self._record.of(self._target, hosts)
        if not files:
            return False
        there = {path: self._tree.read(path) for path in files}
        self._check([self._changed(path, about, there[path]) for path, about in files.items()])
        refresh = _after_removal(plan.refresh) if plan.refresh else None
        program = self._program(refresh) if refresh else None
        if self._dry:
            for path, about in files.items():
                self._say(f"would {'restore' if about.before else 'remove'}: {self._tree.real(path)}")
            if refresh:
                self._say(self._command(refresh, program, "would run"))
            return True
        bundle = b"".join(data for data in there.values() if data)
        self._recorded(lambda: self._take(files))
        try:
            if refresh:
                self._run(refresh, program)
        finally:
            self._prune()
        if refresh and program and not self._lacks(refresh, bundle):
            self._say(f"{self._tree.real(refresh.bundle)} still holds the CA: it was put there in another way as well")
        return True

    def _flaw(self, put: Put, there: bytes | None) -> str | None:
        """Why it must not be put."""
        about = self._record.files.get(put.path)
        if there is not None and not (about and _sha256(there) == about.sha256):
            lines = f"; to keep it, add this to it:\n{put.lines}" if put.lines else "; look at it"
            return f"{self._tree.real(put.path)}: is there, and not ours{lines}"
        hides = put.hides
        if hides and not self._tree.exists(hides.by):
            for folder in hides.folders:
                for path in self._tree.names(folder):
                    if path not in self._record.files:
                        return (
                            f"{self._tree.real(path)}: would no longer be read, once {hides.by} exists; {hides.remedy}"
                        )
        return None

    def _changed(self, path: PurePosixPath, about: File, there: bytes | None) -> str | None:
        if there is None or _sha256(there) == about.sha256:
            return None
        return f"{self._tree.real(path)}: was changed since mirrortap put it there; remove it yourself"

    def _check(self, flaws: list[str | None]) -> None:
        if found := [flaw for flaw in flaws if flaw]:
            if not self._force:
                raise TrustError("\n".join([*found, "Nothing was changed; with --force it is done all the same."]))
            for flaw in found:
                self._say(f"forced: {flaw}")

    def _stale(self, plan: Plan) -> dict[PurePosixPath, File]:
        if not plan.complete:
            return {}
        kept = {put.path for put in plan.puts}
        stale = {path: about for path, about in self._record.of(self._target).items() if path not in kept}
        self._check([self._changed(path, about, self._tree.read(path)) for path, about in stale.items()])
        return stale

    def _put(
        self, wanted: list[Put], stale: dict[PurePosixPath, File], there: dict[PurePosixPath, bytes | None]
    ) -> None:
        for put in wanted:
            self._record.folders.update(self._tree.make_folders(put.path.parent))
            about = self._record.files.get(put.path) or File(self._target, put.host, "")
            old = there[put.path]
            if old is not None and _sha256(old) != about.sha256:
                about = replace(about, before=base64.b64encode(old).decode(), mode=self._tree.mode(put.path))
            self._tree.write(put.path, put.data)
            self._record.files[put.path] = replace(about, sha256=_sha256(put.data))
            self._say(f"put: {self._tree.real(put.path)}")
        self._take(stale)

    def _take(self, files: dict[PurePosixPath, File]) -> None:
        for path, about in files.items():
            original = about.original
            if original is None:
                self._tree.remove(path)
            else:
                self._tree.write(path, original, about.mode)
            del self._record.files[path]
            self._say(f"{'removed' if original is None else 'restored'}: {self._tree.real(path)}")

    def _recorded(self, change: Callable[[], None]) -> None:
        # Before, as what cannot be written down must not be done; and after, however that ended.
        self._record.folders.update(self._tree.make_folders(self._path.parent))
        self._tree.write(self._path, self._record.text())
        try:
            change()
        finally:
            self._tree.write(self._path, self._record.text())

    def _prune(self) -> None:
        """Folders of ours that are empty go, and with the last file the record itself."""
        if not self._record.files:
            self._tree.remove(self._path)
        for folder in sorted(self._record.folders, key=lambda folder: len(folder.parts), reverse=True):
            if self._tree.remove_folder(folder):
                self._record.folders.discard(folder)
        if self._record.files:
            self._tree.write(self._path, self._record.text())

    def _lacks(self, refresh: Refresh, pem: bytes) -> bool:
        # Bundles may be links, as programs of the system want them.
        try:
            return missing(pem, self._tree.real(refresh.bundle).read_bytes())
        except OSError:
            return True

    def _program(self, refresh: Refresh) -> Path | None:
        """The program, or None when it cannot be run in a tree that is not this machine's."""
        found = [self._tree.root / folder / refresh.argv[0] for folder in _PROGRAMS]
        program = next((path for path in found if os.access(path, os.X_OK)), None)
        if self._tree.whole:
            if program is None:
                raise TrustError(f"{refresh.argv[0]} is not installed; {refresh.package}, and run this again")
            return program
        # Without its devices a program in the tree would write a plain file to /dev/null.
        ready = os.geteuid() == 0 and (self._tree.root / "dev/null").is_char_device()
        return program if ready else None

    def _command(self, refresh: Refresh, program: Path | None, verb: str) -> str:
        command = " ".join(refresh.argv)
        if program is None:
            return f"to run in {self._tree.root} when it is in use: {command}"
        return f"{verb}: {command}" if self._tree.whole else f"{verb}: chroot {self._tree.root} {command}"

    def _run(self, refresh: Refresh, program: Path | None) -> None:
        if program is None:
            self._say(self._command(refresh, program, ""))
            return
        inside = f"/{program.relative_to(self._tree.root)}"
        argv = [inside, *refresh.argv[1:]]
        if not self._tree.whole:
            argv = ["chroot", str(self._tree.root), *argv]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TrustError(f"{' '.join(argv)}: {error}; run it yourself") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise TrustError(
                f"{' '.join(argv)} ended with {done.returncode}: {said}; when that is mended, run it yourself"
            )
        self._say(self._command(refresh, program, "ran"))


def _after_removal(refresh: Refresh) -> Refresh:
    return replace(refresh, argv=refresh.argv + refresh.after_removal)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
