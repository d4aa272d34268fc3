"""How endpoints stand."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from addon.config.load import load
from addon.counts.tally import Tally
from addon.upstream.health import Health
from addon.upstream.quota import Quotas
from addon.upstream.standing import Standing

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Config
    from addon.counts.facts import EndpointFacts

FILE = """
[registry."docker.io"]
  mirrors = ["mirror.corp:5000"]
[registry."mirror.corp:5000"]
  http = true
[registry."*.azurecr.io"]
  mirrors = ["mirror.corp:5000"]
[registry."quay.io"]
  mode = "offline"
"""


def configuration(tmp_path: Path) -> Config:
    file = tmp_path / "mirrortap.toml"
    file.write_text(FILE)
    return load([file])


def told(standing: Standing, config: Config) -> list[EndpointFacts]:
    return standing.endpoints(config.rules.values(), Tally().tallied())


def test_what_can_be_asked_is_told_before_it_is(tmp_path: Path) -> None:
    standing = Standing(Health(Random(1)), Quotas(lambda: 10))
    found = told(standing, configuration(tmp_path))
    assert [(each.registry, each.endpoint, each.origin, each.state) for each in found] == [
        ("docker.io", "mirror.corp:5000", False, "unknown"),
        ("docker.io", "docker.io", True, "unknown"),
    ]


def test_a_mirror_that_is_asked_for_as_a_registry_is_one(tmp_path: Path) -> None:
    config, standing = configuration(tmp_path), Standing(Health(Random(1)), Quotas(lambda: 10))
    rule = config.rule("mirror.corp", 5000)
    assert rule
    standing.asked(rule.registry, rule.origins[0])
    assert ("mirror.corp:5000", "mirror.corp:5000", True) in [
        (each.registry, each.endpoint, each.origin) for each in told(standing, config)
    ]


def test_registries_that_clients_make_up_are_bounded(tmp_path: Path) -> None:
    config, standing = configuration(tmp_path), Standing(Health(Random(1)), Quotas(lambda: 10))
    for number in range(10_000):
        rule = config.rule(f"r{number}.azurecr.io", 443)
        assert rule
        standing.asked(rule.registry, rule.origins[0])
    assert len(told(standing, config)) < 300
