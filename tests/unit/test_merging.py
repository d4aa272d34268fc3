"""Several files make one configuration: what adds up, what holds for whom, and what contradicts itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.config import toml

from addon.config.load import load
from addon.config.model import Config, ConfigError, Tls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.certificates import Authority

    Merge = Callable[..., Config]


@pytest.fixture
def merged(tmp_path: Path) -> Merge:
    """Files in this order; those that begin with [[ or are said to be so are registries.conf, the others TOML."""

    def merge(*texts: str) -> Config:
        paths = []
        for i, text in enumerate(texts):
            paths.append(tmp_path / f"{i}.{'conf' if '[[registry' in text else 'toml'}")
            paths[-1].write_text(text)
        return load(paths)

    return merge


def conf(prefix: str, *mirrors: str, location: str | None = None, more: str = "") -> str:
    tables = "".join(f'[[registry.mirror]]\nlocation = "{mirror}"\n' for mirror in mirrors)
    return f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location or prefix}"\n{more}\n{tables}'


def names(config: Config, pattern: str) -> list[str]:
    rule = config.rules[pattern]
    return [each.name for each in (*rule.mirrors, *rule.origins)]


def contradiction(merged: Merge, texts: list[str], *told: str) -> None:
    """Whichever file comes first, both are named."""
    for order in (texts, texts[::-1]):
        with pytest.raises(ConfigError) as caught:
            merged(*order)
        message = str(caught.value)
        for part in (*told, *(f"/{i}.{'conf' if '[[registry' in text else 'toml'}" for i, text in enumerate(order))):
            assert part in message, message


# --- what adds up ---


def test_mirrors_add_up_in_the_order_of_the_files(merged: Merge) -> None:
    one, two = conf("r.test", "a.test", "b.test"), toml({"r.test": {"mirrors": ["c.test", "d.test"]}})
    assert names(merged(one, two), "r.test") == ["a.test", "b.test", "c.test", "d.test", "r.test"]
    assert names(merged(two, one), "r.test") == ["c.test", "d.test", "a.test", "b.test", "r.test"]


def test_the_same_mirror_is_asked_once(merged: Merge) -> None:
    one, two = toml({"r.test": {"mirrors": ["a.test", "b.test"]}}), toml({"r.test": {"mirrors": ["c.test", "a.test"]}})
    assert names(merged(one, two), "r.test") == ["a.test", "b.test", "c.test", "r.test"]
    # One that is used in another way is another one.
    assert names(merged(conf("r.test", "a.test"), one), "r.test") == ["a.test", "a.test", "b.test", "r.test"]


def test_patterns_are_told_apart(merged: Merge) -> None:
    config = merged(conf("r.test/a", "a.test"), conf("r.test", "b.test"), conf("*.test", "c.test", location="d.test"))
    assert {pattern: names(config, pattern) for pattern in ("r.test/a", "r.test", "*.test")} == {
        "r.test/a": ["a.test", "r.test"],
        "r.test": ["b.test", "r.test"],
        "*.test": ["c.test", "d.test"],
    }


def test_files_and_sources_add_up(merged: Merge, tmp_path: Path) -> None:
    config = merged(conf("r.test"), toml({"s.test": {}}))
    assert config.sources == (tmp_path / "0.conf", tmp_path / "1.toml")
    assert config.files == {*config.sources, tmp_path / "0.conf.d"}


def test_one_file_settles_what_the_other_leaves_open(merged: Merge) -> None:
    own = toml({"r.test": {"tag-ttl": "5s", "access": "open"}}, {"tag-ttl": "1s"})
    config = merged(conf("r.test", "a.test"), own, conf("s.test"))
    assert (config.rules["r.test"].tag_ttl, config.rules["r.test"].open) == (5, True)
    assert (config.rules["s.test"].tag_ttl, config.rules["s.test"].open) == (1, False)
    assert merged(conf("r.test"), toml({"r.test": {"mode": "offline"}})).rules["r.test"].offline


def test_where_it_is_counts_for_more_than_how_it_is_reached(merged: Merge) -> None:
    how, where = toml({"r.test": {"http": True}}), conf("r.test", location="n.test/x")
    assert names(merged(how, where), "r.test") == names(merged(where, how), "r.test") == ["n.test/x"]


# --- what is said of a host holds wherever it is named ---


def test_how_a_host_is_verified(merged: Merge, authority: Authority) -> None:
    own = toml({"m.test": {"ca": [authority.file]}, "n.test": {"insecure": True}, "r.test": {"ca": [authority.file]}})
    trusted = Tls((authority.file,))
    files = conf("r.test", "m.test/x", "n.test", "o.test"), conf("s.test", location="m.test/y")
    for order in ((*files, own), (own, *files)):
        config = merged(*order)
        assert [each.tls for each in config.rules["r.test"].mirrors] == [trusted, Tls(verify=False), Tls()]
        assert [each.tls for each in config.rules["r.test"].origins] == [trusted]
        assert [(each.name, each.tls) for each in config.rules["s.test"].origins] == [("m.test/y", trusted)]
        assert config.tls["m.test"] == trusted


def test_whose_credential_is_used(merged: Merge, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    own = toml({"m.test": {"auth": {"token-file": tmp_path / "token"}}})
    config = merged(conf("r.test", "m.test/x", "n.test"), own)
    assert [each.auth and each.auth.registry for each in config.rules["r.test"].mirrors] == ["m.test", None]
    assert config.rules["m.test"].origins[0].auth is not None


def test_what_an_endpoint_has_of_its_own_stays(merged: Merge, authority: Authority) -> None:
    config = merged(
        '[[registry]]\nlocation = "r.test"\nmirror = [{location = "m.test", insecure = true}]',
        toml({"m.test": {"ca": [authority.file]}}),
    )
    assert not config.rules["r.test"].mirrors[0].tls.verify


def test_a_name_alone_says_nothing_of_how_it_is_verified(merged: Merge, authority: Authority) -> None:
    config = merged(toml({"m.test": {}}), toml({"m.test": {"ca": [authority.file]}}))
    assert config.tls["m.test"] == Tls((authority.file,))
    # But it is named, and may be led to.
    assert merged(toml({"m.test": {}}), conf("r.test")).tls == {"m.test": Tls()}


# --- Docker Hub's own mirror ---


def hub_mirrors(config: Config) -> list[str]:
    rule = config.rule("registry-1.docker.io", 443, "library/app")
    assert rule
    return [each.name for each in rule.mirrors]


def test_the_mirror_that_stands_by_for_whom_nobody_mentions(merged: Merge) -> None:
    assert hub_mirrors(merged(conf("r.test", "a.test"))) == ["mirror.gcr.io"]
    assert hub_mirrors(merged(conf("r.test"), toml({"s.test": {}}))) == ["mirror.gcr.io"]
    assert hub_mirrors(merged(toml({"mirror.gcr.io": {}}), conf("r.test"))) == ["mirror.gcr.io"]


@pytest.mark.parametrize("prefix", ["docker.io", "index.docker.io", "docker.io/grafana", "*.io"])
def test_it_does_not_where_anybody_does(prefix: str, merged: Merge) -> None:
    assert hub_mirrors(merged(conf(prefix, location="n.test"), toml({"s.test": {}}))) == []
    assert hub_mirrors(merged(toml({prefix: {}}))) == []


def test_a_part_of_docker_hub_alone(merged: Merge) -> None:
    assert hub_mirrors(merged(conf("docker.io/library", "a.test"))) == ["a.test"]


# --- contradictions ---


def test_where_it_is(merged: Merge) -> None:
    files = [conf("r.test", location="a.test"), conf("r.test", location="b.test")]
    contradiction(merged, files, "registry[0]", "different things of where r.test is")
    server = toml({"r.test": {"server": "https://c.test"}})
    contradiction(merged, [files[0], server], 'registry."r.test"', "different things of where r.test is")
    assert merged(files[0], files[0])


def test_whether_it_is_asked(merged: Merge) -> None:
    never = toml({"r.test": {"mirrors": ["m.test"], "fallback": False}})
    contradiction(
        merged, [conf("r.test", location="a.test"), never], "where r.test is", "forbids asking it", "keep one"
    )
    # To name mirrors is not to ask for the origin.
    config = merged(conf("r.test", "n.test"), never)
    assert names(config, "r.test") == ["n.test", "m.test"]


def test_whether_it_is_blocked(merged: Merge) -> None:
    blocked = conf("r.test", more="blocked = true")
    contradiction(merged, [blocked, conf("r.test", "m.test")], "r.test is blocked by the one and served by the other")
    contradiction(merged, [blocked, toml({"r.test": {"mirrors": ["m.test"]}})], "keep one of the two")
    assert merged(blocked, toml({"r.test": {"blocked": True}})).rules["r.test"].blocked
    # Of another part there is no contradiction.
    config = merged(blocked, conf("r.test/a", "m.test"))
    assert config.rules["r.test"].blocked
    assert not config.rules["r.test/a"].blocked


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        ({"tag-ttl": "1s"}, {"tag-ttl": "2s"}, "tag-ttl"),
        ({"access": "open"}, {"access": "checked"}, "access"),
        ({"mode": "offline"}, {"mode": "online"}, "mode"),
    ],
)
def test_keys_of_a_table(one: dict[str, str], other: dict[str, str], key: str, merged: Merge) -> None:
    files = [toml({"r.test": table}) for table in (one, other)]
    contradiction(merged, files, f"say different things of {key}", "keep one of the two")


def test_how_a_host_is_verified_otherwise(merged: Merge, authority: Authority) -> None:
    files = [toml({"m.test": table}) for table in ({"insecure": True}, {"ca": [authority.file]})]
    contradiction(merged, files, "different TLS settings for m.test", "keep those of one file")


def test_two_files_with_settings(merged: Merge) -> None:
    files = [toml({}, {"tag-ttl": "1s"}), toml({}, {"tag-ttl": "1s"})]
    contradiction(merged, files, "both have a [mirrortap] table", "keep one")


# --- where clients log in ---


def test_a_part_that_is_elsewhere_is_set_apart(merged: Merge) -> None:
    """What clients show of themselves is for whoever answers /v2/, and for nobody else."""

    def heard(config: Config, pattern: str) -> bool:
        return config.rules[pattern].origins[0].hears_clients

    config = merged(
        conf("r.test/a", location="n.test/a"), conf("r.test/b", location="r.test/x"), conf("s.test", location="n.test")
    )
    assert [heard(config, pattern) for pattern in ("r.test/a", "r.test/b", "s.test")] == [False, True, True]
    # With the whole of it at the same place they log in there.
    config = merged(conf("r.test/a", location="n.test/a"), conf("r.test", location="n.test/r"))
    assert heard(config, "r.test/a")
    config = merged(conf("docker.io/a", location="docker.io/b"), conf("*.test", location="n.test"))
    assert heard(config, "docker.io/a")


def test_endpoints_know_where_they_come_from(merged: Merge, tmp_path: Path) -> None:
    config = merged(conf("r.test", "a.test"), toml({"r.test": {"mirrors": ["b.test"]}}))
    assert [str(each.place) for each in config.rules["r.test"].mirrors] == [
        f"{tmp_path / '0.conf'}: registry[0].mirror[0]",
        f'{tmp_path / "1.toml"}: registry."r.test".mirrors[0]',
    ]
