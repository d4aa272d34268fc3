"""docs/reference.md says of every key of the configuration what the model says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from documentation.reference import page, undocumented
from support.proxy import ROOT

from addon.config.formats.tables import MirrortapTable
from addon.config.load import load

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = ROOT / "docs" / "reference.md"


def test_the_page_is_what_the_generator_writes() -> None:
    assert REFERENCE.read_text() == page(), (
        "docs/reference.md is not as the tables are; scripts/reference writes it anew"
    )


def test_something_is_said_of_every_key() -> None:
    assert undocumented() == []


def test_every_setting_has_a_line() -> None:
    text = page().partition("## `[mirrortap]`")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == [
        field.alias for field in MirrortapTable.model_fields.values()
    ]


@pytest.mark.parametrize("heading", ["[mirrortap]", '[[registry."HOST".mirrors]]', '[registry."HOST"]'])
def test_a_default_that_is_written_as_it_stands_there_changes_nothing(heading: str, tmp_path: Path) -> None:
    rows = page().partition(f"## `{heading}`")[2].partition("\n## ")[0]
    said = [
        f"{key} = {default}\n"
        for key, default in re.findall(r"^\| `([a-z-]+)` \| .* \| `(.+)` \| [^|]+ \|$", rows, re.MULTILINE)
    ]
    assert said
    bare = heading.replace("HOST", "r.example") + "\n" + 'url = "https://mirror.example"\n' * heading.startswith("[[")
    path = tmp_path / "mirrortap.toml"

    path.write_text(bare)
    without = load([path])
    path.write_text(bare + "".join(said))
    assert load([path]) == without
