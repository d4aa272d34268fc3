"""buildkitd.toml: what its tables come to, and that whatever is wrong with one is said with a remedy."""

from __future__ import annotations

import string
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.config import as_toml, toml

from addon.config.formats import tables
from addon.config.load import load
from addon.config.model import (
    Amount,
    Config,
    ConfigError,
    Downloads,
    Endpoint,
    KeyPair,
    Lives,
    Place,
    Rule,
    Space,
    Timeouts,
    Tls,
)
from ca.authority import AuthorityError, subtrees

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal
    from pathlib import Path

    from support.certificates import Authority

    Read = Callable[[str], Config]

HUB = Endpoint("docker.io", "https://registry-1.docker.io", is_origin=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "buildkitd.toml"


@pytest.fixture
def read(file: Path) -> Read:
    def read(text: str) -> Config:
        file.write_text(text)
        return load([file])

    return read


def mirrors(rule: Rule) -> list[str]:
    return [endpoint.url for endpoint in rule.mirrors]


def origins(rule: Rule) -> list[str]:
    return [endpoint.url for endpoint in rule.origins]


# --- what holds when nothing is said ---


def test_defaults() -> None:
    config = load([])
    assert config.rules == {
        "docker.io": Rule("docker.io", (HUB,), (Endpoint("mirror.gcr.io", "https://mirror.gcr.io"),))
    }
    assert (config.timeouts, config.tag_ttl, config.sources, config.warnings) == (Timeouts(), 0.0, (), ())
    assert (config.space, config.downloads, config.offline) == (Space(), Downloads(), False)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[mirrortap]\n", "[registry]\n", "debug = true\n[worker.oci]\n"])
def test_a_file_that_says_nothing(text: str, file: Path, read: Read) -> None:
    config = read(text)
    assert config.rules == load([]).rules
    assert config.sources == (file,)


# --- BuildKit's tables ---

# As in BuildKit's own documentation: every table it has, and the options of [registry] all at once.
DOCUMENTED = """
debug = true
root = "/var/lib/buildkit"
insecure-entitlements = [ "network.host", "security.insecure", "device" ]
proxyNetwork = true
provenanceEnvDir = "/etc/buildkit/provenance.d"
[log]
  format = "text"
[dns]
  nameservers=["1.1.1.1","8.8.8.8"]
[grpc]
  address = [ "tcp://0.0.0.0:1234" ]
  uid = 0
  [grpc.tls]
    cert = "/etc/buildkit/tls.crt"
[otel]
  socketPath = "/run/buildkit/otel-grpc.sock"
[cdi]
  disabled = true
[history]
  maxAge = 172800
[worker.oci]
  enabled = true
  platforms = [ "linux/amd64", "linux/arm64" ]
  [worker.oci.labels]
    "foo" = "bar"
  [[worker.oci.gcpolicy]]
    keepDuration = "48h"
  [[worker.oci.gcpolicy]]
    all = true
[worker.containerd]
  address = "/run/containerd/containerd.sock"
  [worker.containerd.runtime]
    options = { BinaryName = "runc" }
[registry."docker.io"]
  mirrors = ["yourmirror.local:5000", "core.harbor.domain/proxy.docker.io"]
  http = true
  insecure = true
  ca=["/etc/config/myca.pem"]
  [[registry."docker.io".keypair]]
    key="/etc/config/key.pem"
    cert="/etc/config/cert.pem"
[registry."yourmirror.local:5000"]
  http = true
[frontend."dockerfile.v0"]
  enabled = true
[system]
  platformsCacheMaxAge = "1h"
[ghacache.verify.policy]
timestampThreshold = 1
"""


def test_buildkits_documentation_works_unchanged(read: Read, tmp_path: Path, authority: Authority) -> None:
    pair = authority.pair("client")
    for name, source in (("myca.pem", authority.file), ("key.pem", pair.key), ("cert.pem", pair.cert)):
        (tmp_path / name).write_bytes(source.read_bytes())
    config = read(DOCUMENTED.replace("/etc/config", str(tmp_path)))
    tls = Tls((tmp_path / "myca.pem",), (KeyPair(tmp_path / "cert.pem", tmp_path / "key.pem"),), verify=False)
    assert config.warnings == ()
    assert config.rules == {
        "docker.io": Rule(
            "docker.io",
            origins=(
                Endpoint("docker.io", "https://registry-1.docker.io", tls=tls, is_origin=True),
                Endpoint("docker.io", "http://registry-1.docker.io", tls=tls, is_origin=True),
            ),
            mirrors=(
                Endpoint("yourmirror.local:5000", "http://yourmirror.local:5000"),
                Endpoint("core.harbor.domain/proxy.docker.io", "https://core.harbor.domain", "/v2/proxy.docker.io"),
            ),
        ),
        "yourmirror.local:5000": Rule(
            "yourmirror.local:5000",
            origins=(Endpoint("yourmirror.local:5000", "http://yourmirror.local:5000", is_origin=True),),
        ),
    }
    assert config.tls["docker.io"] == tls


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO", "docker.io:443"])
def test_names_of_docker_hub(name: str, read: Read) -> None:
    config = read(toml({name: {"mirrors": ["m.io"]}}))
    assert config.rules == {"docker.io": Rule("docker.io", (HUB,), (Endpoint("m.io", "https://m.io"),))}


@pytest.mark.parametrize(
    ("table", "urls"),
    [
        ({}, ["https://m.io:5000"]),
        ({"http": False}, ["https://m.io:5000"]),
        ({"http": True}, ["http://m.io:5000"]),
        ({"insecure": True}, ["https://m.io:5000"]),
        ({"insecure": True, "http": True}, ["https://m.io:5000", "http://m.io:5000"]),
    ],
)
def test_a_mirrors_own_table_says_how_it_is_reached(table: Mapping[str, object], urls: list[str], read: Read) -> None:
    config = read(toml({"docker.io": {"mirrors": ["m.io:5000/a/b", "n.io"]}, "m.io:5000": table}))
    rule = config.rules["docker.io"]
    assert mirrors(rule) == [*urls, "https://n.io"]
    for endpoint in rule.mirrors[:-1]:
        assert (endpoint.name, endpoint.base, endpoint.is_origin) == ("m.io:5000/a/b", "/v2/a/b", False)
        assert endpoint.tls.verify is not table.get("insecure", False)
    assert rule.mirrors[-1].tls == Tls()
    # What is said of a registry holds for its origin as well.
    assert origins(config.rules["m.io:5000"]) == urls
    assert rule.origins == (HUB,)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_loopback_is_plain_http_unless_said_otherwise(host: str, read: Read) -> None:
    def url(table: Mapping[str, object] | None) -> list[str]:
        tables = {"docker.io": {"mirrors": [f"{host}:5000"]}}
        return mirrors(read(toml(tables if table is None else tables | {f"{host}:5000": table})).rules["docker.io"])

    assert url(None) == url({}) == url({"http": True}) == [f"http://{host}:5000"]
    assert url({"http": False}) == [f"https://{host}:5000"]
    assert url({"insecure": True}) == [f"https://{host}:5000", f"http://{host}:5000"]


@pytest.mark.parametrize("host", ["10.0.0.1", "128.0.0.1", "127.example.com", "localhost.example.com", "[::2]"])
def test_what_is_not_loopback_is_https(host: str, read: Read) -> None:
    assert mirrors(read(toml({"docker.io": {"mirrors": [host]}})).rules["docker.io"]) == [f"https://{host}"]


@pytest.mark.parametrize("path", ["/", "//", "//a", "/a", "/a/b/", "/proxy.docker.io", "/a_b-c"])
def test_the_path_of_a_mirror(path: str, read: Read) -> None:
    (mirror,) = read(toml({"docker.io": {"mirrors": ["m.io" + path]}})).rules["docker.io"].mirrors
    assert mirror == Endpoint(
        f"m.io/{path.strip('/')}".rstrip("/"), "https://m.io", f"/v2/{path.strip('/')}".rstrip("/")
    )


def test_a_table_without_mirrors_has_none(read: Read) -> None:
    """The built-in mirror is for those who say nothing about docker.io at all."""
    assert read(toml({"docker.io": {"insecure": False}})).rules["docker.io"].mirrors == ()
    assert mirrors(read(toml({"ghcr.io": {}})).rules["docker.io"]) == ["https://mirror.gcr.io"]


def test_the_built_in_mirror_is_reached_as_its_table_says(read: Read) -> None:
    assert mirrors(read(toml({"mirror.gcr.io": {"http": True}})).rules["docker.io"]) == ["http://mirror.gcr.io"]


# --- mirrortap's own keys ---


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("https://near.example", "https://near.example"),
        ("https://near.example/", "https://near.example"),
        ("https://near.example/v2/", "https://near.example"),
        ("http://near.example:5000/v2", "http://near.example:5000"),
        ("HTTPS://Near.Example:443", "https://near.example"),
        ("http://near.example:80", "http://near.example:80"),
        ("https://192.0.2.1:5000", "https://192.0.2.1:5000"),
        ("https://[::1]:5000", "https://[::1]:5000"),
    ],
)
def test_server_says_where_the_origin_is(server: str, url: str, read: Read, authority: Authority) -> None:
    rule = read(toml({"docker.io": {"server": server, "mirrors": ["m.io"], "ca": [authority.file]}})).rules["docker.io"]
    name = url.partition("://")[2]
    assert rule.origins == (Endpoint(name, url, tls=Tls((authority.file,)), is_origin=True),)
    assert rule.registry == "docker.io"
    assert mirrors(rule) == ["https://m.io"]


def test_plain_http_on_port_443(read: Read) -> None:
    config = read(
        toml({"docker.io": {"server": "http://near.example:443", "mirrors": ["m.io:443"]}, "m.io:443": {"http": True}})
    )
    rule = config.rules["docker.io"]
    assert [*origins(rule), *mirrors(rule)] == ["http://near.example:443", "http://m.io:443"]


def test_without_fallback_there_is_no_origin(read: Read) -> None:
    rule = read(toml({"docker.io": {"mirrors": ["m.io"], "fallback": False}})).rules["docker.io"]
    assert rule.origins == ()
    assert mirrors(rule) == ["https://m.io"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("500ms", 0.5), ("5s", 5), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 5s ", 5)]
)
def test_durations(text: str, seconds: float, read: Read) -> None:
    config = read(toml({"ghcr.io": {}, "quay.io": {"tag-ttl": "7s"}}, {"tag-ttl": text}))
    assert config.tag_ttl == seconds
    assert {name: rule.tag_ttl for name, rule in config.rules.items()} == {
        "docker.io": seconds,
        "ghcr.io": seconds,
        "quay.io": 7,
    }
    found = config.rule("gcr.io", 443)
    assert found is not None
    assert found.tag_ttl == seconds


def test_a_registry_may_say_zero(read: Read) -> None:
    assert read(toml({"ghcr.io": {"tag-ttl": "0s"}}, {"tag-ttl": "5m"})).rules["ghcr.io"].tag_ttl == 0


@pytest.mark.parametrize(("all_of_them", "redirected"), [(None, False), ("never", False), ("public", True)])
def test_redirect(all_of_them: str | None, redirected: bool, read: Read) -> None:
    tables = {"ghcr.io": {}, "quay.io": {"redirect": "public"}, "gcr.io/team": {"redirect": "never"}}
    config = read(toml(tables, {"redirect": all_of_them} if all_of_them else None))
    assert {name: rule.redirect for name, rule in config.rules.items()} == {
        "docker.io": redirected,
        "ghcr.io": redirected,
        "quay.io": True,
        "gcr.io/team": False,
    }
    plain = config.rule("nvcr.io", 443)
    assert plain
    assert plain.redirect == redirected
    assert config.redirects
    assert read(toml({}, {"redirect": "public"})).redirects
    assert not read(toml({"quay.io": {"redirect": "never"}})).redirects


def test_no_redirect_where_the_origin_knows_the_proxy(read: Read, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    (tmp_path / "password").chmod(0o600)
    auth = {"username": "proxy", "password-file": tmp_path / "password"}
    config = read(toml({"quay.io": {"redirect": "public", "auth": auth}}))
    assert not config.rules["quay.io"].redirect
    (warning,) = config.warnings
    assert 'registry."quay.io": redirect = "public" changes nothing' in warning
    config = read(toml({"quay.io": {"auth": auth}, "ghcr.io": {}}, {"redirect": "public"}))
    assert {name for name, rule in config.rules.items() if rule.redirect} == {"docker.io", "ghcr.io"}
    assert not config.warnings


def test_timeouts(read: Read) -> None:
    own = {"connect-timeout": "1s", "first-byte-timeout": "2s", "stall-timeout": "3s"}
    assert read(toml({}, own)).timeouts == Timeouts(1, 2, 3)
    assert read(toml({}, {"hedge-delay": "0s", "stale-after": "4s"})).timeouts == Timeouts(hedge=0, stale=4)


def test_downloads(read: Read) -> None:
    own = {"min-rate": "1MB", "keep-filling-from": "50%", "hedge-origin": True, "quota-floor": 0, "prefetch": False}
    assert read(toml({}, own)).downloads == Downloads(1_000_000, 0.5, True, 0, False)
    own = {"segment-size": "1MiB", "connections-per-fill": 1}
    assert read(toml({}, own)).downloads == Downloads(segment_size=1 << 20, connections_per_fill=1)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_registry_may_be_prefetched_or_not_unlike_others(read: Read, everywhere: bool) -> None:
    config = read(toml({"ghcr.io": {}, "quay.io": {"prefetch": not everywhere}}, {"prefetch": everywhere}))
    prefetched = {
        host: rule.prefetch
        for host in ("docker.io", "gcr.io", "ghcr.io", "quay.io")
        if (rule := config.rule(host, 443))
    }
    assert prefetched == {
        "docker.io": everywhere,
        "gcr.io": everywhere,
        "ghcr.io": everywhere,
        "quay.io": not everywhere,
    }


def test_lives(read: Read) -> None:
    assert read(toml({})).lives == Lives(7 * 86400, 365 * 86400)
    shortest = {"leaf-life": "3s", "intermediate-life": "6s"}
    assert read(toml({}, shortest)).lives == Lives(3, 6)
    assert read(toml({}, {"intermediate-life": "3650d"})).lives == Lives(intermediate=3650 * 86400)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("500MB", Amount(500_000_000)),
        ("20GB", Amount(20_000_000_000)),
        ("20GiB", Amount(20 << 30)),
        (" 1.5TB ", Amount(1_500_000_000_000)),
        ("1KiB", Amount(1024)),
        ("1kB", Amount(1000)),
        ("1B", Amount(1)),
        ("75%", Amount(share=0.75)),
        ("0.5%", Amount(share=0.005)),
    ],
)
def test_amounts(text: str, amount: Amount, read: Read) -> None:
    assert read(toml({}, {"cache-size": text})).space == Space(cache=amount)
    assert read(toml({}, {"min-free": text})).space == Space(free=amount)


def test_the_whole_disk_and_nothing_left_free(read: Read) -> None:
    space = read(toml({}, {"cache-size": "100%", "min-free": "0%"})).space
    assert (space.cache.of(1000), space.free.of(1000)) == (1000, 0)
    # Only what is said can contradict itself.
    assert read(toml({}, {"min-free": "99%"})).space == Space(Amount(share=0.75), Amount(share=0.99))


@given(
    st.integers(0, 10**9 - 1),
    st.sampled_from(
        [
            (unit, base**power)
            for base, units in ((1000, ["B", "kB", "MB", "GB", "TB"]), (1024, ["B", "KiB", "MiB", "GiB", "TiB"]))
            for power, unit in enumerate(units)
        ]
    ),
)
def test_any_whole_number_of_any_unit(number: int, unit: tuple[str, int]) -> None:
    table = tables.MirrortapTable.model_validate({"min-rate": f"{number}{unit[0]}"})
    assert table.min_rate == number * unit[1]


@given(st.decimals(0, 1000, places=3))
def test_any_share(percent: Decimal) -> None:
    try:
        table = tables.MirrortapTable.model_validate({"keep-filling-from": f"{percent}%"})
    except ValidationError:
        assert percent > 100
    else:
        assert percent <= 100
        assert table.keep_filling_from == pytest.approx(float(percent) / 100)


# --- rules for parts of registries, and for families of them ---


def test_patterns_of_tables(read: Read) -> None:
    names = ["docker.io", "index.docker.io/library", "*.corp.example", "*.corp.example:5000", "*.corp.example/team"]
    config = read(toml({name: {"mirrors": [f"m{i}.io"]} for i, name in enumerate(names)}))
    found = {
        asked: config.rule(host, port, repository)
        for asked, host, port, repository in (
            ("library", "registry-1.docker.io", 443, "library/app"),
            ("hub", "docker.io", 443, "grafana/grafana"),
            ("corp", "a.b.corp.example", 443, "app"),
            ("team", "a.b.corp.example", 443, "team/app"),
            ("port", "a.corp.example", 5000, "team/app"),
            ("none", "a.corp.example", 5001, ""),
            ("itself", "corp.example", 443, ""),
        )
    }
    assert {asked: rule and mirrors(rule) for asked, rule in found.items()} == {
        "library": ["https://m1.io"],
        "hub": ["https://m0.io"],
        "corp": ["https://m2.io"],
        "team": ["https://m4.io"],
        "port": ["https://m3.io"],
        "none": None,
        "itself": None,
    }
    assert origins(rule_of(config, "a.b.corp.example")) == ["https://a.b.corp.example"]


def test_a_part_is_reached_as_the_whole_is(read: Read, authority: Authority) -> None:
    """Unless its own table says otherwise."""
    tables: dict[str, Mapping[str, object]] = {
        "r.io": {"ca": [authority.file]},
        "r.io/a": {"mirrors": ["m.io"]},
        "r.io/b": {"insecure": True},
    }
    rules = read(toml(tables)).rules
    assert rules["r.io/a"].origins[0].tls == Tls((authority.file,))
    assert rules["r.io/b"].origins[0].tls == Tls(verify=False)


def test_blocked(read: Read) -> None:
    config = read(
        toml({"r.io": {"blocked": True}, "r.io/free": {}, "s.io": {"blocked": False}, "*.t.io": {"blocked": True}})
    )
    blocked = {"r.io": True, "r.io/free": False, "s.io": False, "*.t.io": True, "docker.io": False}
    assert {pattern: rule.blocked for pattern, rule in config.rules.items()} == blocked
    assert config.rules["r.io"].origins == config.rules["r.io"].mirrors == ()
    assert rule_of(config, "a.t.io").blocked
    # What is about no repository is asked for the part that is free.
    assert not rule_of(config, "r.io").blocked
    found = config.rule("r.io", 443, "other/app")
    assert found
    assert found.blocked


# --- mirrors as tables ---

MIRROR = """
[[registry."docker.io/library".mirrors]]
url = "https://m.io:5000/hub"
path-mode = "replaced"
capabilities = ["pull", "referrers"]
headers = { X-Key = "secret" }
dial-timeout = "500ms"
ns = false
ca = ["ca.pem"]
"""


def test_all_keys_of_a_mirror(read: Read, file: Path, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.file.read_bytes())
    (mirror,) = read(MIRROR).rules["docker.io/library"].mirrors
    assert mirror == Endpoint(
        "m.io:5000/hub",
        "https://m.io:5000",
        "/v2/hub",
        "library",
        Tls((tmp_path / "ca.pem",)),
        can=frozenset({"pull", "referrers"}),
        headers=(("X-Key", "secret"),),
        dial_timeout=0.5,
        ns=False,
    )
    assert mirror.path("library/app") == "/v2/hub/app"
    assert mirror.place == Place(file, ("registry", "docker.io/library", "mirrors", 0))
    assert "secret" not in repr(mirror)


@pytest.mark.parametrize(
    ("url", "mode", "path"),
    [
        ("https://m.io", None, "/v2/library/app"),
        ("https://m.io/", None, "/v2/library/app"),
        ("https://m.io/hub/", None, "/v2/hub/library/app"),
        ("https://m.io/hub", "after-v2", "/v2/hub/library/app"),
        ("https://m.io/hub", "before-v2", "/hub/v2/library/app"),
        ("https://m.io", "before-v2", "/v2/library/app"),
        ("https://m.io/v2/hub", "as-is", "/v2/hub/library/app"),
        ("https://m.io", "as-is", "/library/app"),
        ("https://m.io/hub", "replaced", "/v2/hub/app"),
        ("https://m.io", "replaced", "/v2/app"),
    ],
)
def test_path_modes(url: str, mode: str | None, path: str, read: Read) -> None:
    mirror = {"url": url} | ({"path-mode": mode} if mode else {})
    config = read(toml({"docker.io/library": {"mirrors": [mirror]}}))
    assert [each.url + each.path("library/app") for each in config.rules["docker.io/library"].mirrors] == [
        f"https://m.io{path}"
    ]


def test_a_mirror_as_a_table_is_by_default_as_one_by_its_name(read: Read) -> None:
    config = read(toml({"docker.io": {"mirrors": ["m.io/hub", {"url": "https://m.io/hub"}]}}))
    assert config.rules["docker.io"].mirrors == (Endpoint("m.io/hub", "https://m.io", "/v2/hub"),)
    config = read(toml({"docker.io": {"mirrors": [{"url": "http://m.io:5000"}, "n.io"]}}))
    assert mirrors(config.rules["docker.io"]) == ["http://m.io:5000", "https://n.io"]


def test_how_a_mirror_as_a_table_is_verified(read: Read, authority: Authority) -> None:
    """As its host's own table says, unless it says anything itself."""
    of_host = {"m.io": {"ca": [authority.file]}}
    config = read(toml({"docker.io": {"mirrors": [{"url": "https://m.io"}]}, **of_host}))
    assert config.rules["docker.io"].mirrors[0].tls == Tls((authority.file,))
    config = read(toml({"docker.io": {"mirrors": [{"url": "https://m.io", "insecure": True}]}, **of_host}))
    assert config.rules["docker.io"].mirrors[0].tls == Tls(verify=False)
    pair = authority.pair("client")
    own = {"url": "https://m.io", "keypair": [{"key": pair.key, "cert": pair.cert}]}
    config = read(toml({"docker.io": {"mirrors": [own]}, **of_host}))
    assert config.rules["docker.io"].mirrors[0].tls == Tls((), (KeyPair(pair.cert, pair.key),))


# --- offline ---


def test_an_offline_registry_has_nothing_to_connect_to(read: Read) -> None:
    table = {"mirrors": ["m.io"], "server": "https://n.io", "tag-ttl": "5s", "mode": "offline"}
    config = read(toml({"docker.io": table, "ghcr.io": {"mode": "online"}}))
    assert config.rules["docker.io"] == Rule("docker.io", (), tag_ttl=5, offline=True)
    assert not config.offline
    assert not config.rules["ghcr.io"].offline
    assert origins(config.rules["ghcr.io"]) == ["https://ghcr.io"]
    assert not rule_of(config, "quay.io").offline


def test_offline_is_every_registry_those_without_a_table_included(read: Read) -> None:
    config = read(toml({"docker.io": {"mirrors": ["m.io"]}, "r.test": {}}, {"offline": True, "tag-ttl": "5s"}))
    assert config.offline
    account = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    for name in "docker.io", "r.test", "quay.io", account, "me.azurecr.io":
        assert rule_of(config, name) == Rule(name, (), tag_ttl=5, offline=True)
    assert config.rule("example.com", 443) is None
    assert read(toml({}, {"offline": False})) == read(toml({}))


def rule_of(config: Config, host: str) -> Rule:
    rule = config.rule(host, 443)
    assert rule
    return rule


# --- files it names ---


def test_paths_are_relative_to_the_file(read: Read, tmp_path: Path, authority: Authority) -> None:
    pair = authority.pair("client")
    (tmp_path / "tls").mkdir()
    for name, source in (("ca.pem", authority.file), ("key.pem", pair.key), ("cert.pem", pair.cert)):
        (tmp_path / "tls" / name).write_bytes(source.read_bytes())
    config = read(toml({"m.io": {"ca": ["tls/ca.pem"], "keypair": [{"key": "tls/key.pem", "cert": "tls/cert.pem"}]}}))
    folder = tmp_path / "tls"
    assert config.tls["m.io"] == Tls((folder / "ca.pem",), (KeyPair(folder / "cert.pem", folder / "key.pem"),))


def test_home_is_known(read: Read, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ca.pem").write_bytes(authority.file.read_bytes())
    assert read(toml({"m.io": {"ca": ["~/ca.pem"]}})).tls["m.io"].ca == (tmp_path / "home" / "ca.pem",)


def test_a_folder_of_certificates(read: Read, tmp_path: Path, authority: Authority) -> None:
    """Docker's certs.d: *.crt are CAs, NAME.cert and NAME.key a client's pair; all else is nothing."""
    folder = tmp_path / "certs.d"
    folder.mkdir()
    assert read(toml({"m.io": {"tlsconfigdir": ["certs.d"]}})).tls["m.io"] == Tls()
    pair = authority.pair("client")
    for name, source in (
        ("b.crt", authority.file),
        ("a.crt", authority.file),
        ("c.key", pair.key),
        ("c.cert", pair.cert),
    ):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "README").write_text("")
    expected = Tls((folder / "a.crt", folder / "b.crt"), (KeyPair(folder / "c.cert", folder / "c.key"),))
    assert read(toml({"m.io": {"tlsconfigdir": ["certs.d"]}})).tls["m.io"] == expected


# --- what is refused ---


def refused(file: Path, *told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([file])
    message = str(caught.value)
    assert all(line.startswith(f"{file}: ") for line in message.splitlines()), message
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # Keys and tables that are not ours.
        ('[registry."m.io"]\nmirors = []', ['registry."m.io".mirors', "unknown key", "did you mean mirrors?"]),
        ('[registry."m.io"]\ntag_ttl = "5s"', ['registry."m.io".tag_ttl', "did you mean tag-ttl?"]),
        ('[registry."m.io"]\nzzz = 1', ['registry."m.io".zzz', "the keys are mirrors, http, insecure, ca, keypair"]),
        ("[mirrortap]\ntag-tll = '5s'", ["mirrortap.tag-tll", "did you mean tag-ttl?"]),
        ("[mirrortap]\nx = 1", ["mirrortap.x", "the keys are connect-timeout, first-byte-timeout, stall-timeout"]),
        (
            '[registry."m.io"]\nkeypair = [{key = "a", certificate = "b"}]',
            ["keypair[0].certificate", "the keys are key, cert"],
        ),
        ("[registries.m]", ["registries", "did you mean [registry]?"]),
        ("[regisrty.m]", ["regisrty", "did you mean [registry]?"]),
        ("Registry = {}", ["Registry", "did you mean [registry]?"]),
        ("[mirrotap]", ["mirrotap", "did you mean [mirrortap]?"]),
        # Types.
        ('[registry."m.io"]\nmirrors = "x"', ['registry."m.io".mirrors', "valid list", "'x'"]),
        ('[registry."m.io"]\nmirrors = ["a", 1]', ['registry."m.io".mirrors[1]', "valid string"]),
        ('[registry."m.io"]\nhttp = "yes"', ['registry."m.io".http', "boolean"]),
        ('[registry."m.io"]\nhttp = 1', ['registry."m.io".http', "boolean"]),
        ('[registry."m.io"]\nfallback = "false"', ['registry."m.io".fallback', "boolean"]),
        ('[registry."m.io"]\nserver = 1', ['registry."m.io".server', "string"]),
        ('[registry."m.io"]\nca = "x"', ['registry."m.io".ca', "list"]),
        ('[registry."m.io"]\nkeypair = {key = "a", cert = "b"}', ['registry."m.io".keypair', "list"]),
        ('[registry."m.io"]\nkeypair = [{key = "a"}]', ['registry."m.io".keypair[0].cert', "required"]),
        ("registry = 1", ["registry", "dictionary"]),
        ("registry.m = 1", ["registry.m", "dictionary"]),
        ("[[registry]]", ["registry[0]", "neither prefix nor location"]),  # as in a registries.conf
        ("mirrortap = true", ["mirrortap", "dictionary"]),
        # Durations.
        ("[mirrortap]\ntag-ttl = 5", ["mirrortap.tag-ttl", "write a duration as a string"]),
        ("[mirrortap]\ntag-ttl = true", ["mirrortap.tag-ttl", "write a duration as a string"]),
        ("[mirrortap]\ntag-ttl = '5'", ["mirrortap.tag-ttl", "'5' is not a duration", '"5s"']),
        ("[mirrortap]\ntag-ttl = '-5s'", ["mirrortap.tag-ttl", "not a duration"]),
        ("[mirrortap]\ntag-ttl = 'soon'", ["mirrortap.tag-ttl", "not a duration"]),
        ("[mirrortap]\nconnect-timeout = '0s'", ["mirrortap.connect-timeout", "greater than 0"]),
        ("[mirrortap]\nredirect = 'always'", ["mirrortap.redirect", "'never' or 'public'"]),
        ("[mirrortap]\nredirect = true", ["mirrortap.redirect", "'never' or 'public'"]),
        ('[registry."m.io"]\nredirect = "private"', ['registry."m.io".redirect', "'never' or 'public'"]),
        ('[registry."m.io"]\ntag-ttl = "5 weeks"', ['registry."m.io".tag-ttl', "not a duration"]),
        # Amounts, rates, shares and counts.
        ("[mirrortap]\ncache-size = 5", ["mirrortap.cache-size", "write an amount as a string", "(it is 5)"]),
        ("[mirrortap]\ncache-size = '20'", ["mirrortap.cache-size", "'20' is not an amount", '"20GB"', '"75%"']),
        ("[mirrortap]\ncache-size = '20G'", ["mirrortap.cache-size", "'20G' is not an amount"]),
        ("[mirrortap]\ncache-size = '20gb'", ["mirrortap.cache-size", "'20gb' is not an amount"]),
        ("[mirrortap]\ncache-size = '-1GB'", ["mirrortap.cache-size", "'-1GB' is not an amount"]),
        ("[mirrortap]\ncache-size = '-1%'", ["mirrortap.cache-size", "'-1%' is not an amount"]),
        ("[mirrortap]\ncache-size = '110%'", ["mirrortap.cache-size", "is more than 100%", "'110%'"]),
        ("[mirrortap]\ncache-size = '0%'", ["mirrortap.cache-size", "nothing could be cached"]),
        ("[mirrortap]\ncache-size = '0GB'", ["mirrortap.cache-size", "nothing could be cached"]),
        ("[mirrortap]\ncache-size = '0.1B'", ["mirrortap.cache-size", "nothing could be cached"]),
        ("[mirrortap]\nmin-free = '100%'", ["mirrortap.min-free", "nothing could be cached"]),
        ("[mirrortap]\nmin-free = '101%'", ["mirrortap.min-free", "is more than 100%"]),
        (
            "[mirrortap]\ncache-size = '80%'\nmin-free = '30%'",
            ["mirrortap.min-free", "and cache-size together are more than the disk"],
        ),
        ("[mirrortap]\nmin-rate = 10", ["mirrortap.min-rate", "write a number of bytes as a string"]),
        ("[mirrortap]\nmin-rate = '10%'", ["mirrortap.min-rate", "'10%' is not a number of bytes", '"10kB"']),
        ("[mirrortap]\nmin-rate = '10kB/s'", ["mirrortap.min-rate", "is not a number of bytes"]),
        ("[mirrortap]\nkeep-filling-from = 0.25", ["mirrortap.keep-filling-from", "write a share as a string"]),
        ("[mirrortap]\nkeep-filling-from = '25'", ["mirrortap.keep-filling-from", "'25' is not a share", '"25%"']),
        ("[mirrortap]\nkeep-filling-from = '100.1%'", ["mirrortap.keep-filling-from", "is more than 100%"]),
        ("[mirrortap]\nquota-floor = -1", ["mirrortap.quota-floor", "greater than or equal to 0"]),
        ("[mirrortap]\nquota-floor = '10'", ["mirrortap.quota-floor", "valid integer"]),
        ("[mirrortap]\nquota-floor = 1.5", ["mirrortap.quota-floor", "valid integer"]),
        ("[mirrortap]\nsegment-size = '1023KiB'", ["mirrortap.segment-size", "is less than 1MiB", "raise it"]),
        ("[mirrortap]\nsegment-size = 64", ["mirrortap.segment-size", "write a number of bytes as a string"]),
        ("[mirrortap]\nconnections-per-fill = 0", ["mirrortap.connections-per-fill", "greater than or equal to 1"]),
        ("[mirrortap]\nconnections-per-fill = 17", ["mirrortap.connections-per-fill", "less than or equal to 16"]),
        ("[mirrortap]\nhedge-delay = 2", ["mirrortap.hedge-delay", "write a duration as a string"]),
        ("[mirrortap]\nhedge-origin = 'no'", ["mirrortap.hedge-origin", "boolean"]),
        ("[mirrortap]\nstale-after = 'never'", ["mirrortap.stale-after", "not a duration"]),
        # Certificates.
        ("[mirrortap]\nleaf-life = 7", ["mirrortap.leaf-life", "write a duration as a string"]),
        ("[mirrortap]\nleaf-life = '2.9s'", ["mirrortap.leaf-life", "is shorter than 3s", "raise it"]),
        (
            "[mirrortap]\nleaf-life = '1h'\nintermediate-life = '119m'",
            ["mirrortap.intermediate-life", "must be at least twice leaf-life", "raise it, or lower that"],
        ),
        ("[mirrortap]\nintermediate-life = '13d'", ["mirrortap.intermediate-life", "must be at least twice leaf-life"]),
        ("[mirrortap]\nleaf-life = '183d'", ["mirrortap.intermediate-life", "must be at least twice leaf-life"]),
        ("[mirrortap]\nintermediate-life = '3651d'", ["mirrortap.intermediate-life", "is longer than a root's, 3650d"]),
        # Offline.
        ("[mirrortap]\noffline = 'yes'", ["mirrortap.offline", "boolean"]),
        ('[registry."m.io"]\nmode = "off"', ['registry."m.io".mode', "'online' or 'offline'", "'off'"]),
        ('[registry."m.io"]\noffline = true', ['registry."m.io".offline', "unknown key"]),
        (
            '[mirrortap]\noffline = true\n[registry."m.io"]\nmode = "online"',
            ['registry."m.io".mode', "offline = true in [mirrortap]"],
        ),
        ('[registry."192.0.2.1"]\nmode = "offline"', ['registry."192.0.2.1".mode', "cannot be kept"]),
        # Registries.
        ('[registry."m.io/a b"]', ['registry."m.io/a b"', "no part of a repository's name"]),
        ('[registry."https://m.io"]', ['registry."https://m.io"', "is not host[:port]"]),
        ('[registry."*.10.0.0.1"]', ['registry."*.10.0.0.1"', "is not a name and its subdomains"]),
        ('[registry."m.io:0"]', ['registry."m.io:0"', "is not host[:port]"]),
        ('[registry."m.io:65536"]', ['registry."m.io:65536"', "is not host[:port]"]),
        ('[registry."m.io:"]', ['registry."m.io:"', "is not host[:port]"]),
        ('[registry."m.io:http"]', ['registry."m.io:http"', "is not host[:port]"]),
        ('[registry.""]', ['registry.""', "is not host[:port]"]),
        ('[registry."a b"]', ['registry."a b"', "is not host[:port]"]),
        ('[registry."d\u00f6cker.io"]', ["is not host[:port]"]),
        # Twice the same.
        (
            '[registry."docker.io"]\n[registry."index.docker.io"]',
            ['registry."index.docker.io"', 'same registry as registry."docker.io"', "keep one"],
        ),
        ('[registry."m.io"]\n[registry."M.IO:443"]', ['registry."M.IO:443"', 'same registry as registry."m.io"']),
        # Mirrors.
        (
            '[registry."m.io"]\nmirrors = ["https://n.io"]',
            ['registry."m.io".mirrors[0]', "has a scheme", "host[:port][/path]"],
        ),
        (
            '[registry."m.io"]\nmirrors = ["a.io", "http://n.io:5000"]',
            ['registry."m.io".mirrors[1]', "has a scheme", '[registry."n.io:5000"] http = true'],
        ),
        ('[registry."m.io"]\nmirrors = [""]', ['registry."m.io".mirrors[0]', "is not host[:port]"]),
        ('[registry."m.io"]\nmirrors = ["/n"]', ['registry."m.io".mirrors[0]', "is not host[:port]"]),
        ('[registry."m.io"]\nmirrors = ["n.io:99999"]', ['registry."m.io".mirrors[0]', "is not host[:port]"]),
        ('[registry."m.io"]\nmirrors = ["u:p@n.io"]', ['registry."m.io".mirrors[0]', "is not host[:port]"]),
        ('[registry."m.io"]\nmirrors = ["n.io/../a"]', ['registry."m.io".mirrors[0]', "cannot be a path"]),
        ('[registry."m.io"]\nmirrors = ["n.io/a?b=c"]', ['registry."m.io".mirrors[0]', "cannot be a path"]),
        ('[registry."m.io"]\nmirrors = ["n.io/A"]', ['registry."m.io".mirrors[0]', "cannot be a path"]),
        # Mirrors as tables.
        (
            '[[registry."m.io".mirrors]]\nurl = "n.io"',
            ['registry."m.io".mirrors[0].url', "is not a URL", '"https://host[:port][/path]"'],
        ),
        ('[[registry."m.io".mirrors]]\nurl = "ftp://n.io"', ['registry."m.io".mirrors[0].url', "is not a URL"]),
        ('[[registry."m.io".mirrors]]\nurl = "https://u:p@n.io"', ["mirrors[0].url", "is not host[:port]"]),
        ('[[registry."m.io".mirrors]]\nurl = "https://n.io/a?b"', ["mirrors[0].url", "cannot be a path"]),
        ('[[registry."m.io".mirrors]]\nns = false', ['registry."m.io".mirrors[0].url', "required"]),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\npathmode = "as-is"',
            ['registry."m.io".mirrors[0].pathmode: unknown key', "did you mean path-mode?"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\npath-mode = "override"',
            ["mirrors[0].path-mode", "'after-v2', 'before-v2', 'as-is' or 'replaced'", "'override'"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\ncapabilities = ["push"]',
            ["mirrors[0].capabilities[0]", "'pull', 'resolve' or 'referrers'", "'push'"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\ncapabilities = []',
            ["mirrors[0].capabilities", "is empty", "take the mirror out"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\ndial-timeout = "0s"',
            ["mirrors[0].dial-timeout", "greater than 0"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\nheaders = {"X Key" = "v"}',
            ["mirrors[0].headers", "'X Key' is no name of a header"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\nheaders = {Host = "v"}',
            ["mirrors[0].headers", "Host is set for each request"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\nheaders = {X-Key = "a\\nb"}',
            ["mirrors[0].headers", "the value of X-Key cannot be sent"],
        ),
        (
            '[[registry."m.io".mirrors]]\nurl = "https://n.io"\nca = ["absent.pem"]',
            ['registry."m.io".mirrors[0].ca[0]', "absent.pem cannot be read"],
        ),
        ('[registry."m.io"]\nmirrors = [["n.io"]]', ['registry."m.io".mirrors[0]', "valid string"]),
        # What is blocked.
        (
            '[registry."m.io"]\nblocked = true\nmirrors = ["n.io"]',
            ['registry."m.io".blocked', "nothing is served of it, and no endpoint can be named"],
        ),
        ('[registry."m.io"]\nblocked = true\nfallback = false', ['registry."m.io".blocked', "nothing is served"]),
        ('[registry."m.io"]\nblocked = "yes"', ['registry."m.io".blocked', "boolean"]),
        ('[registry."192.0.2.1"]\nblocked = true', ['registry."192.0.2.1".blocked', "cannot be kept"]),
        # Origins.
        ('[registry."m.io"]\nfallback = false', ['registry."m.io".fallback', "no mirrors"]),
        (
            '[registry."m.io"]\nfallback = false\nmirrors = ["a"]\nserver = "https://b"',
            ['registry."m.io".server', "fallback = false"],
        ),
        ('[registry."m.io"]\nserver = "n.io"', ['registry."m.io".server', "is not a URL", '"https://host[:port]"']),
        ('[registry."m.io"]\nserver = "ftp://n.io"', ['registry."m.io".server', "is not a URL"]),
        ('[registry."m.io"]\nserver = "https://"', ['registry."m.io".server', "is not a URL"]),
        ('[registry."m.io"]\nserver = "https://n.io/path"', ['registry."m.io".server', "has a path"]),
        ('[registry."m.io"]\nserver = "https://n.io/?a=b"', ['registry."m.io".server', "has a path"]),
        ('[registry."m.io"]\nserver = "https://n.io:99999"', ['registry."m.io".server', "is not host[:port]"]),
        ('[registry."m.io"]\nserver = "https://u:p@n.io"', ['registry."m.io".server', "is not host[:port]"]),
        # Files.
        (
            '[registry."m.io"]\nca = ["absent.pem"]',
            ['registry."m.io".ca[0]', "absent.pem cannot be read: No such file"],
        ),
        ('[registry."m.io"]\nca = ["."]', ['registry."m.io".ca[0]', "Is a directory"]),
        ('[registry."m.io"]\nca = ["/dev/null"]', ['registry."m.io".ca[0]', "/dev/null holds no PEM certificate"]),
        ('[registry."m.io"]\nkeypair = [{key = "k", cert = "c"}]', ['registry."m.io".keypair[0]', "cannot be read"]),
        ('[registry."m.io"]\ntlsconfigdir = ["absent"]', ['registry."m.io".tlsconfigdir[0]', "absent is not a folder"]),
        (
            '[registry."m.io"]\ntlsconfigdir = ["buildkitd.toml"]',
            ['registry."m.io".tlsconfigdir[0]', "is not a folder"],
        ),
        # Not TOML.
        ("[registry", ["is not valid TOML"]),
        ("a = 1\na = 2\n", ["is not valid TOML", "line 2"]),
        ('[registry."m.io"]\n[registry."m.io"]', ["is not valid TOML", "line 2"]),
        ("a = 2021-02-30", ["is not valid TOML", "line 1"]),
        ("\ufeff", ["is not valid TOML"]),
    ],
)
def test_what_is_refused(text: str, told: list[str], file: Path) -> None:
    file.write_text(text)
    refused(file, *told)


@pytest.mark.parametrize("value", ['"hidden\\n"', '["hidden"]', '{ hidden = "hidden" }'])
def test_the_value_of_a_header_is_not_shown(value: str, file: Path) -> None:
    file.write_text(f'[[registry."m.io".mirrors]]\nurl = "https://n.io"\nheaders = {{ X-Key = {value} }}')
    with pytest.raises(ConfigError) as caught:
        load([file])
    assert "X-Key" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_every_fault_is_told_at_once(file: Path) -> None:
    file.write_text('[registry."m.io"]\nmirors = []\nhttp = 1\n[mirrortap]\ntag-ttl = 5\n')
    refused(file, "mirors", "http", "tag-ttl")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    refused(tmp_path / "absent.toml", "there is no such file", "--config")
    refused(tmp_path, "has no folder that is named like a registry")
    (tmp_path / "latin1.toml").write_bytes("# caf\u00e9\n".encode("latin-1"))
    refused(tmp_path / "latin1.toml", "is not UTF-8 text (byte 5)")
    (tmp_path / "utf16.toml").write_text("[registry]\n", "utf-16")
    refused(tmp_path / "utf16.toml", "is not UTF-8 text")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_garbage_for_certificates(content: bytes, file: Path, tmp_path: Path, authority: Authority) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(content)
    pair = authority.pair("client")
    file.write_text(toml({"m.io": {"ca": [authority.file, garbage]}}))
    refused(file, 'registry."m.io".ca[1]', f"{garbage} holds no PEM certificate")
    for key, cert in ((pair.key, garbage), (garbage, pair.cert)):
        file.write_text(toml({"m.io": {"keypair": [{"key": key, "cert": cert}]}}))
        refused(file, 'registry."m.io".keypair[0]', str(garbage), "unencrypted key")
    (tmp_path / "certs.d").mkdir()
    (tmp_path / "certs.d" / "a.crt").write_bytes(content)
    file.write_text(toml({"m.io": {"tlsconfigdir": ["certs.d"]}}))
    refused(file, 'registry."m.io".tlsconfigdir[0]', "a.crt holds no PEM certificate")


def test_a_key_of_another_certificate(file: Path, authority: Authority) -> None:
    one, other = authority.pair("one"), authority.pair("other")
    file.write_text(toml({"m.io": {"keypair": [{"key": one.key, "cert": other.cert}]}}))
    refused(file, 'registry."m.io".keypair[0]', str(one.key), str(other.cert))


def test_an_encrypted_key(file: Path, tmp_path: Path, authority: Authority) -> None:
    """Nobody is there to be asked for the password."""
    pair = authority.pair("client")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    (tmp_path / "locked.pem").write_bytes(pem)
    file.write_text(toml({"m.io": {"keypair": [{"key": "locked.pem", "cert": pair.cert}]}}))
    refused(file, 'registry."m.io".keypair[0]', "locked.pem", "unencrypted key")


def test_a_key_that_is_missing_beside_its_certificate(file: Path, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "certs.d").mkdir()
    (tmp_path / "certs.d" / "a.cert").write_bytes(authority.pair("client").cert.read_bytes())
    file.write_text(toml({"m.io": {"tlsconfigdir": ["certs.d"]}}))
    refused(file, 'registry."m.io".tlsconfigdir[0]', "a.key cannot be read: No such file")


# What the libraries below raise is not always the exception they promise.
SURPRISES = [
    '[registry."m.io"]\nserver = "https://[::1"',
    '[registry."m.io"]\nserver = "https://[n.io]"',
    '[registry."m.io"]\nserver = "https://ex\u2100mple"',
    '[registry."m.io"]\nca = ["a\\u0000b"]',
    '[registry."m.io"]\nkeypair = [{key = "a\\u0000", cert = "b"}]',
    '[registry."m.io"]\nca = ["~nobody-of-this-name/ca.pem"]',
    '[registry."m.io"]\ntlsconfigdir = ["' + "x" * 5000 + '"]',
    "a = " + "[" * 5000 + "]" * 5000,
    "a = " + "1" * 5000,
]


@pytest.mark.parametrize("text", SURPRISES, ids=lambda text: repr(text[:60]))
def test_what_must_be_refused_too(text: str, file: Path) -> None:
    file.write_text(text)
    refused(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("[mirrortap]\ntag-ttl = '\u0665s'", "mirrortap.tag-ttl", id="digits of another script"),
        pytest.param('[registry."192.0.2.1"]\nfallback = false', "fallback", id="a promise that cannot be kept"),
    ],
)
def test_what_is_accepted_but_should_not_be(text: str, told: str, file: Path) -> None:
    file.write_text(text)
    refused(file, told)


# --- registries that no certificate can stand for ---


@pytest.mark.parametrize("host", ["192.0.2.1", "192.0.2.1:5000", "[2001:db8::1]:5000", "my_registry:5000"])
def test_mirrors_of_what_cannot_be_intercepted(host: str, read: Read) -> None:
    config = read(toml({host: {"mirrors": ["m.io"], "insecure": True}, "docker.io": {"mirrors": [host]}}))
    (warning,) = config.warnings
    assert f'registry."{host}"' in warning
    assert "cannot be intercepted" in warning
    assert list(config.rules) == ["docker.io"]
    # The table still says how the mirror is reached.
    assert not config.rules["docker.io"].mirrors[0].tls.verify
    assert read(toml({host: {"insecure": True}})).warnings == ()


@pytest.mark.parametrize(
    "host", ["my.123", "5000", "127.1", "[.]", "[a.b]", "a" * 64 + ".io", ".".join(["label"] * 50)]
)
def test_a_registry_that_the_ca_would_refuse_is_refused_before(host: str, file: Path) -> None:
    file.write_text(toml({host: {}}))
    refused(file, f'registry."{host}"')


@pytest.mark.parametrize("port", ["4\u0664\u0663", "0443", "05000"])
def test_a_port_that_no_client_would_write(port: str, file: Path) -> None:
    file.write_text(toml({f"m.io:{port}": {}}))
    refused(file, f'registry."m.io:{port}"')


def test_the_hint_for_a_mirror_with_a_scheme_holds(file: Path) -> None:
    file.write_text(toml({"docker.io": {"mirrors": ["http://n.io:5000/path"]}}))
    refused(file, '[registry."n.io:5000"] http = true')


def test_the_suggestion_for_a_registry_named_keypair(file: Path) -> None:
    file.write_text("[registry.keypair]\nmirors = []\n")
    refused(file, "did you mean mirrors?")


# --- anything that is TOML ---


def outcome(file: Path) -> Config | ConfigError:
    try:
        return load([file])
    except ConfigError as error:
        told = error
    assert str(told).startswith(f"{file}: ")
    return told


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hosts = st.sampled_from(
    [
        "docker.io",
        "index.docker.io",
        "m.io",
        "M.io:443",
        "m.io:5000",
        "localhost",
        "127.0.0.1:1",
        "[::1]",
        "[a]",
        "1.2",
        "a_b",
    ]
)
words = st.one_of(
    texts,
    hosts,
    st.text("ab.:/[]0~@-_%?\\\u2100\0", max_size=8),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["http://", "https://", "HTTP:", "//", ""]),
        hosts,
        st.text("/v2.:@[]", max_size=4),
    ),
    st.sampled_from([".", "/dev/null", "~/x", "~nobody-of-this-name", "x" * 5000, "5s", "0ms", "9" * 400 + "d"]),
)
scalars = st.one_of(words, st.booleans(), st.integers(), st.floats(), st.dates())
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
durations = st.sampled_from(["5s", "0ms", "1.5h", "9" * 400 + "d", "\u0661s"])
mirror_keys: dict[str, st.SearchStrategy[Any]] = {
    "url": words,
    "path-mode": st.sampled_from(["after-v2", "before-v2", "as-is", "replaced"]),
    "capabilities": st.lists(st.sampled_from(["pull", "resolve", "referrers"]), max_size=2),
    "insecure": st.booleans(),
    "headers": st.dictionaries(words, words, max_size=2),
    "dial-timeout": durations,
    "ns": st.booleans(),
}
registry_keys: dict[str, st.SearchStrategy[Any]] = {
    "mirrors": st.lists(words | st.fixed_dictionaries({}, optional=mirror_keys), max_size=2),
    "blocked": st.booleans(),
    "http": st.booleans(),
    "insecure": st.booleans(),
    "ca": st.lists(words, max_size=1),
    "keypair": st.lists(st.fixed_dictionaries({"key": words, "cert": words}), max_size=1),
    "tlsconfigdir": st.lists(words, max_size=1),
    "server": words,
    "fallback": st.booleans(),
    "tag-ttl": durations,
    "prefetch": st.booleans(),
    "mode": st.sampled_from(["online", "offline"]),
    "redirect": st.sampled_from(["never", "public"]),
}
amounts = st.sampled_from(["20GB", "0B", "75%", "0%", "100%", "101%", "9" * 400 + "%", "999999999TiB", "\u0661GB"])
own_keys: dict[str, st.SearchStrategy[Any]] = {
    "tag-ttl": durations,
    "connect-timeout": durations,
    "cache-size": amounts,
    "min-free": amounts,
    "min-rate": amounts,
    "keep-filling-from": amounts,
    "quota-floor": st.integers(),
    "prefetch": st.booleans(),
    "offline": st.booleans(),
}


def documents(
    registry: st.SearchStrategy[Any], own: st.SearchStrategy[Any], name: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, Any]]:
    tables = {"registry": st.dictionaries(name, registry, max_size=3), "mirrortap": own, "worker": anything}
    return st.fixed_dictionaries({}, optional=tables)


# Of the right types, so that the values matter; and of any.
typed = documents(
    st.fixed_dictionaries({}, optional=registry_keys), st.fixed_dictionaries({}, optional=own_keys), hosts
)
untyped = documents(
    anything | st.fixed_dictionaries({}, optional={key: each | anything for key, each in registry_keys.items()}),
    anything | st.fixed_dictionaries({}, optional={key: each | anything for key, each in own_keys.items()}),
    words,
)


# The file is written anew each time; how long that takes says nothing.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=typed | untyped | st.dictionaries(words, anything, max_size=3))
@example(document={"registry": {"m.io": {"server": "https://[::1"}}})
@example(document={"registry": {"m.io": {"ca": ["\0"]}}})
@example(document={"registry": {"m.io": {"ca": ["~nobody-of-this-name"]}}})
@example(document={"registry": {"5000": {}}})
def test_any_toml_is_a_config_or_a_config_error(file: Path, document: dict[str, Any]) -> None:
    text = "".join(f"{as_toml(key)} = {as_toml(value)}\n" for key, value in document.items())
    assert tomllib.loads(text).keys() == document.keys()
    file.write_text(text)
    config = outcome(file)
    if isinstance(config, ConfigError):
        return
    assert "docker.io" in config.rules
    for rule in config.rules.values():
        assert (rule.offline or rule.blocked) == (not rule.origins and not rule.mirrors)
    assert config.space.cache.of(10**12) > 0
    # What the configuration lets pass must not fail when the CA is opened: that error could not name a key.
    try:
        subtrees(config.certificate_names())
    except AuthorityError as error:
        pytest.fail(str(error))


@settings(deadline=None)
@given(st.text(string.printable))
def test_any_text_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text)
    outcome(file)


def test_a_rule_is_found_once_and_none_for_names_that_only_fill_the_memory() -> None:
    config = Config({})
    assert config.rule("quay.io", 443, "a/b") is config.rule("quay.io", 443, "a/b")
    long = "a/" * 300 + "b"
    assert config.rule("quay.io", 443, long) == config.rule("quay.io", 443, long)
    assert config.rule("quay.io", 443, long) is not config.rule("quay.io", 443, long)
    assert config.rule("nobody.example", 443, "a/b") is None
