"""Which repository is known to hold which digest."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from addon.cache import database
from addon.cache.links import Links
from addon.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


def test_a_link_is_for_one_repository_and_one_digest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(tmp_path / "a.sqlite")) as connection:
        links = Links(connection)
        assert not links.known("docker.io", "library/alpine", ONE)
        for _ in range(2):  # a second time changes nothing
            links.add("docker.io", "library/alpine", ONE)
        assert links.known("docker.io", "library/alpine", ONE)
        assert not links.known("docker.io", "library/alpine", OTHER)
        assert not links.known("docker.io", "library/alpin", ONE)
        assert not links.known("docker.io", "library", ONE)
        assert not links.known("ghcr.io", "library/alpine", ONE)
        assert not links.known("docker.io", "library/alpine", Digest("sha512", ONE.encoded))
        links.add("ghcr.io", "library/alpine", OTHER)
        assert not links.known("ghcr.io", "library/alpine", ONE)
    assert caplog.messages == []


def test_names_are_values_not_patterns(tmp_path: Path) -> None:
    with closing(database.connect(tmp_path / "a.sqlite")) as connection:
        links = Links(connection)
        links.add("docker.io", "a_b", ONE)
        assert not links.known("docker.io", "axb", ONE)
        assert not links.known("docker.io", "A_B", ONE)
        assert not links.known("docker.io", "%' OR 1 --", ONE)


def test_links_outlive_the_process(tmp_path: Path) -> None:
    with closing(database.connect(tmp_path / "a.sqlite")) as connection:
        Links(connection).add("docker.io", "a", ONE)
    with closing(database.connect(tmp_path / "a.sqlite")) as connection:
        assert Links(connection).known("docker.io", "a", ONE)


def test_a_damaged_database_knows_nothing(tmp_path: Path) -> None:
    """It may be lost, so a damaged page must cost a question upstream and no more."""
    path = tmp_path / "a.sqlite"
    with closing(database.connect(path)) as connection:
        Links(connection).add("docker.io", "a", ONE)
    first_page = path.read_bytes()[:4096]
    path.write_bytes(first_page + os.urandom(path.stat().st_size - 4096))
    with closing(database.connect(path)) as connection:
        assert not Links(connection).known("docker.io", "a", ONE)
