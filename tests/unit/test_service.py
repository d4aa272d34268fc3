"""What starts, what refuses to, and what is left for the next start."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import re
import threading
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.config import toml

from addon.running import LOCK
from addon.service import Service, StartError
from ca.authority import AuthorityError

if TYPE_CHECKING:
    from support.config import Table


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refused(config: Path | None, data: Path, told: str) -> None:
    with pytest.raises(StartError, match=told):
        Service([config] if config else [], data)


async def test_a_first_start_makes_everything(data: Path) -> None:
    service = Service([], data)
    assert service.authority.created
    assert service.authority.root_path == data / "ca" / "ca.crt"
    assert service.cache.folder == data / "cache"
    assert {path.name for path in service.cache.folder.iterdir()} >= {"oci-layout", "index.json", "mirrortap.sqlite"}
    await service.close()


async def test_a_second_start_finds_it_again(data: Path) -> None:
    first = Service([], data)
    await first.close()
    second = Service([], data)
    assert not second.authority.created
    assert second.authority.fingerprint == first.authority.fingerprint
    await second.close()


async def test_a_second_proxy_on_one_folder(data: Path) -> None:
    first = Service([], data)
    # It must not touch what the first one is writing.
    (data / "cache" / "partial" / "being-written").write_text("")
    refused(None, data, rf"^{re.escape(str(data))}: is in use by another mirrortap; stop it, or .* --data$")
    assert (data / "cache" / "partial" / "being-written").exists()
    await first.close()
    await Service([], data).close()


async def test_two_proxies_on_two_folders(tmp_path: Path) -> None:
    one, other = Service([], tmp_path / "one"), Service([], tmp_path / "other")
    assert one.authority.fingerprint != other.authority.fingerprint
    await one.close()
    await other.close()


async def test_offline_whatever_the_configuration_says(tmp_path: Path, data: Path) -> None:
    config = tmp_path / "online.toml"
    config.write_text(toml({"docker.io": {"mirrors": ["m.io"], "mode": "online"}}))
    service = Service([config], data, offline=True)
    assert service.config.offline
    (rule,) = service.config.rules.values()
    assert (rule.offline, rule.mirrors, rule.origins) == (True, (), ())
    await service.close()


async def test_the_engine_is_closed_with_the_service(data: Path) -> None:
    # What other tests have left says the same.
    gc.collect()
    service = Service([], data)
    assert service.engine is service.engine
    await service.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # aiohttp says so when its connections were left open.
        del service
        gc.collect()
    assert not [each for each in caught if "Unclosed" in str(each.message)]


async def test_whoever_only_looks_for_a_proxy_keeps_none_from_starting(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addon.service._LOOKING", 30.0)
    await Service([], data).close()
    looking = os.open(data / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.02, os.close, [looking]).start()
    await Service([], data).close()


async def test_over_a_fork_the_lock_stays_where_it_was(data: Path) -> None:
    """As in the supervisor and its worker, but for the fork: the lock is one, so the second half lets go of it."""
    service = Service([], data)
    service.before_fork()
    assert not held_open(service.cache.folder)
    refused(None, data, "is in use by another mirrortap")
    service.after_fork(1)
    assert held_open(service.cache.folder)
    await Service([], data).close()
    assert service.engine
    await service.close()
    assert not held_open(service.cache.folder)


def held_open(folder: Path) -> set[str]:
    """The files below it that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        # Threads open and close files meanwhile.
        with suppress(FileNotFoundError):
            path = link.readlink()
            found |= {path.name} if path.is_relative_to(folder) else set()
    return found


def test_a_cache_that_is_gone_after_the_fork(data: Path) -> None:
    service = Service([], data)
    service.before_fork()
    database = service.cache.folder / "mirrortap.sqlite"
    database.unlink()
    database.mkdir()
    with pytest.raises(StartError, match=r"mirrortap\.sqlite: cannot be used \(.*\); check the folder's rights"):
        service.after_fork(1)


def test_a_bad_configuration_touches_nothing(tmp_path: Path, data: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text('[registry."docker.io"]\nmirors = []\n')
    refused(config, data, r"bad\.toml: registry.*mirors: unknown key; did you mean mirrors\?")
    refused(tmp_path / "absent.toml", data, r"absent\.toml: there is no such file")
    assert not data.exists()


def test_folders_in_the_way(tmp_path: Path, data: Path) -> None:
    data.write_text("")
    refused(None, data, r"data: cannot be written: File exists; choose another folder with --data")
    refused(None, data / "below", r"below: cannot be written: Not a directory; choose another folder")
    for part, told in (("cache", "the cache cannot be written: "), ("ca", "cannot read or write")):
        folder = tmp_path / f"without-{part}"
        folder.mkdir()
        (folder / part).write_text("")
        refused(None, folder, told)


def failing_start(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("")
    refused(None, cache.parent, "the cache cannot be written")


async def test_a_start_that_failed_is_over(data: Path) -> None:
    cache = data / "cache"
    failing_start(cache)
    cache.unlink()
    await Service([], data).close()


async def test_a_new_registry_needs_no_new_root(tmp_path: Path, data: Path) -> None:
    first = Service([], data)
    await first.close()
    config = tmp_path / "more.toml"
    config.write_text(toml({"reg.example:5000": {"mirrors": ["m.io"]}}))
    second = Service([config], data)
    assert second.authority.fingerprint == first.authority.fingerprint
    assert second.authority.leaf("reg.example")
    await second.close()


@pytest.mark.parametrize("set_to", ["", "relative/folder", None])
async def test_the_default_folder_is_below_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str | None
) -> None:
    """XDG base directory specification: a relative path counts as not set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if set_to is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", set_to)
    service = Service()
    assert service.cache.folder == tmp_path / ".local" / "share" / "mirrortap" / "cache"
    await service.close()


async def test_the_default_folder_is_xdgs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    service = Service()
    assert service.cache.folder == tmp_path / "xdg" / "mirrortap" / "cache"
    await service.close()


def changed(service: Service, config: Path, tables: dict[str, Table], settings: Table | None = None) -> None:
    """Another configuration, which is looked at."""
    config.write_text(toml(tables, settings))
    service.look(anyway=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    config = tmp_path / "mirrortap.toml"
    config.write_text(toml({"a.io": {"mirrors": ["m.io"]}}))
    return config


async def test_told_to_be_offline_it_stays_that(config: Path, data: Path) -> None:
    service = Service([config], data, offline=True)
    changed(service, config, {"b.io": {"mirrors": ["m.io"], "mode": "online"}}, {"offline": False})
    (rule,) = [rule for rule in service.config.rules.values() if rule.registry == "b.io"]
    assert (service.config.offline, rule.offline, rule.mirrors) == (True, True, ())
    await service.close()


async def test_another_host_gets_certificates(config: Path, data: Path) -> None:
    service = Service([config], data)
    root, first = service.authority.fingerprint, service.authority
    with pytest.raises(AuthorityError, match=r"b\.io is outside the names"):
        first.leaf("b.io")
    changed(service, config, {"b.io": {}}, {"leaf-life": "1h"})
    leaf = service.authority.leaf("b.io")
    assert service.authority.fingerprint == root
    assert leaf.not_after - leaf.certificate.not_valid_before_utc < timedelta(hours=3)
    with pytest.raises(AuthorityError, match=r"a\.io is outside the names"):
        service.authority.leaf("a.io")
    await service.close()


async def test_a_host_that_needs_the_roots_key_is_refused_without_it(
    config: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service([config], data)
    before = service.config
    key = (data / "ca" / "ca.key").rename(data / "away.key")
    changed(service, config, {"a.io": {"mirrors": ["n.io"]}, "b.io": {}}, {"tag-ttl": "5m"})
    assert service.config is before
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"the configuration is REFUSED, and the one before stays in use: {config}: intermediate ")
    assert "intermediate.crt does not permit b.io, and issuing another needs the root key; " in line
    assert service.authority.leaf("a.io")
    service.look(anyway=True)
    assert service.config is before
    # What needs no key is changed without it, and with the key it goes on.
    changed(service, config, {"a.io": {"mirrors": ["n.io"]}}, {"tag-ttl": "5m"})
    assert service.config.tag_ttl == 300
    key.rename(data / "ca" / "ca.key")
    changed(service, config, {"a.io": {}, "b.io": {}})
    assert service.authority.leaf("b.io")
    await service.close()


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_forked_process_begins_with_what_is_good_now(
    config: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service([config], data)
    service.before_fork()
    changed(service, config, {"b.io": {}})
    assert "b.io" in service.config.rules
    changed(service, config, {"b.io": {"mirors": []}})
    assert warned(caplog) == []
    service.after_fork(1)
    assert "b.io" in service.config.rules
    (line,) = warned(caplog)
    assert line.startswith("the configuration is REFUSED")
    changed(service, config, {"c.io": {}})
    service.before_fork()
    service.after_fork(1)
    assert "c.io" in service.config.rules
    await service.close()
