"""What is installed here, made into wheels again: elsewhere the same can be installed without a package index."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from importlib.metadata import Distribution
    from pathlib import Path

# What pip adds to what a wheel has.
_OF_INSTALLER = ("INSTALLER", "REQUESTED", "direct_url.json")


def wheelhouse(folder: Path, root: str) -> None:
    """Fills a folder with all that the distribution `root` needs at run time, and what it is built with."""
    folder.mkdir()
    waiting, known = _needed(distribution(root)), {root}
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            found = distribution(name)
            _write(folder, found)
            waiting += _needed(found)
    # Built with it is what is not installed.
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "setuptools>=77"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


def _needed(found: Distribution) -> list[str]:
    required = map(Requirement, found.requires or ())
    return [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]


def _write(folder: Path, found: Distribution) -> None:
    metadata = (found.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ").split("-") for line in metadata if line.startswith("Tag: ")]
    # Several tags are one name, part by part (PEP 425, compressed tag sets).
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    name = found.metadata["Name"].replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as wheel:
        for file in found.files or ():
            # Not what lies outside, which pip makes from the entry points, nor what it has compiled.
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in _OF_INSTALLER:
                wheel.write(str(file.locate()), str(file))
