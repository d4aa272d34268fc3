"""daemon.json: what it comes to, and that whatever is wrong with it is said with a remedy."""

from __future__ import annotations

import ipaddress
import json
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from addon.config.formats import daemon_json
from addon.config.load import load
from addon.config.model import ConfigError, Endpoint, Tls
from addon.config.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from addon.config.model import Config, Rule

    Read = Callable[[object], Config]

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
# All that dockerd 28 knows besides what is read here.
DOCKERDS = (
    *("allow-direct-routing", "allow-nondistributable-artifacts", "api-cors-header", "authorization-plugins", "bip"),
    *("bip6", "bridge", "bridge-accept-fwmark", "builder", "cdi-spec-dirs", "cgroup-parent", "containerd"),
    *("containerd-namespace", "containerd-plugins-namespace", "cpu-rt-period", "cpu-rt-runtime", "data-root", "debug"),
    *("default-address-pools", "default-cgroupns-mode", "default-gateway", "default-gateway-v6", "default-ipc-mode"),
    *("default-network-opts", "default-runtime", "default-shm-size", "default-ulimits", "dns", "dns-opts"),
    *("dns-search", "exec-opts", "exec-root", "experimental", "features", "firewall-backend", "fixed-cidr"),
    *("fixed-cidr-v6", "group", "host-gateway-ip", "host-gateway-ips", "hosts", "http-proxy", "https-proxy", "icc"),
    *("init", "init-path", "ip", "ip-forward", "ip-forward-no-drop", "ip-masq", "ip6tables", "iptables", "ipv6"),
    *("labels", "live-restore", "log-driver", "log-format", "log-level", "log-opts", "max-concurrent-downloads"),
    *("max-concurrent-uploads", "max-download-attempts", "metrics-addr", "min-api-version", "mtu"),
    *("network-control-plane-mtu", "no-new-privileges", "no-proxy", "node-generic-resources", "oom-score-adjust"),
    *("pidfile", "proxies", "raw-logs", "runtimes", "seccomp-profile", "selinux-enabled", "shutdown-timeout"),
    *("storage-driver", "storage-opts", "swarm-default-advertise-addr", "swarm-raft-election-tick"),
    *("swarm-raft-heartbeat-tick", "tls", "tlscacert", "tlscert", "tlskey", "tlsverify", "userland-proxy"),
    *("userland-proxy-path", "userns-remap", "validate"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


@pytest.fixture
def read(file: Path) -> Read:
    def read(document: object) -> Config:
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return load([file])

    return read


def asked(rule: Rule | None) -> list[str]:
    """In order; mirrors as scheme://host/base, those that are told the registry with ?ns=."""
    assert rule
    mirrors = [f"{each.url}{each.base}{'?ns=' if each.told else ''}" for each in rule.mirrors]
    return mirrors + [each.url for each in rule.origins]


def refused(read: Read, document: object, *told: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        read(document)
    message = str(refusal.value)
    for each in ("daemon.json", *told):
        assert each in message
    return message


# --- mirrors ---


def test_global_mirrors_are_docker_hubs(read: Read) -> None:
    config = read({"registry-mirrors": ["https://a.test", "http://b.test:5000/", "https://c.test:443/Hub/cache/"]})
    assert asked(config.rule("registry-1.docker.io", 443)) == [
        "https://a.test/v2",
        "http://b.test:5000/v2",
        "https://c.test/Hub/cache/v2",
        "https://registry-1.docker.io",
    ]
    assert asked(config.rule("quay.io", 443)) == ["https://quay.io"]
    assert config.warnings == ()


def test_a_path_comes_before_v2(read: Read) -> None:
    (mirror,) = read({"registry-mirrors": ["https://c.test/Hub/cache"]}).rules["docker.io"].mirrors
    assert mirror.path("library/app") == "/Hub/cache/v2/library/app"
    assert mirror.name == "c.test/Hub/cache"


def test_each_registrys_own_then_the_global_ones_then_the_origin(read: Read) -> None:
    config = read(
        {
            "registry-mirrors": ["https://all.test", "http://ghcr.test"],
            "registries": {"docker.io": ["https://hub.test"], "ghcr.io": ["http://ghcr.test", "https://two.test"]},
        }
    )
    assert asked(config.rule("docker.io", 443)) == [
        "https://hub.test/v2",
        "https://all.test/v2",
        "http://ghcr.test/v2",
        "https://registry-1.docker.io",
    ]
    assert asked(config.rule("ghcr.io", 443)) == [
        "http://ghcr.test/v2",
        "https://two.test/v2",
        "https://all.test/v2?ns=",
        "https://ghcr.io",
    ]
    (warning,) = config.warnings
    assert "daemon.json: registry-mirrors: are asked for ghcr.io" in warning
    assert 'registries."docker.io"' in warning


def test_many_registries_are_one_short_warning(read: Read) -> None:
    document = {"registry-mirrors": ["https://a.test"], "registries": {f"r{i}.test": [] for i in range(9)}}
    (warning,) = read(document).warnings
    assert "for r0.test, r1.test, r2.test and 6 more, too" in warning


def test_the_map_alone(read: Read) -> None:
    config = read({"registries": {"Registry.example.com:5000": ["https://a.test"]}})
    assert asked(config.rule("registry.example.com", 5000)) == [
        "https://a.test/v2",
        "https://registry.example.com:5000",
    ]
    assert config.warnings == ()
    # Nothing is said of Docker Hub.
    assert asked(config.rule("docker.io", 443)) == ["https://mirror.gcr.io/v2?ns=", "https://registry-1.docker.io"]


def test_an_empty_list_is_said_of_docker_hub(read: Read) -> None:
    assert asked(read({"registry-mirrors": []}).rule("docker.io", 443)) == ["https://registry-1.docker.io"]


@pytest.mark.parametrize("text", ["", " \n", "{}", '{"debug": true, "log-opts": {"a": "b", "a": "c"}}'])
def test_nothing_of_ours(read: Read, text: str) -> None:
    assert read(text).rules == load([]).rules


def test_the_settings_of_dockerd_are_its_own(read: Read) -> None:
    assert read(dict.fromkeys(DOCKERDS, 1)).rules == load([]).rules


def test_another_file_may_say_how_a_mirror_is_reached(file: Path, tmp_path: Path) -> None:
    """Its networks hold all the same."""
    file.write_text(json.dumps({"registry-mirrors": ["https://a.test"], "insecure-registries": ["10.0.0.0/8"]}))
    (tmp_path / "more.toml").write_text('[registry."a.test"]\ninsecure = true\n')
    (mirror,) = load([file, tmp_path / "more.toml"]).rules["docker.io"].mirrors
    assert mirror.tls == Tls(verify=False, lenient=(ipaddress.ip_network("10.0.0.0/8"), *LOOPBACK))


# --- insecure registries ---


def test_insecure_by_name(read: Read) -> None:
    config = read(
        {
            "registry-mirrors": ["https://a.test:5000", "https://a.test", "http://a.test:5000"],
            "insecure-registries": ["a.test:5000", "b.test:443"],
        }
    )
    verified = [mirror.tls.verify for mirror in config.rules["docker.io"].mirrors]
    assert verified == [False, True, False]
    assert asked(config.rule("a.test", 5000)) == ["https://a.test:5000", "http://a.test:5000"]
    assert asked(config.rule("b.test", 443)) == ["https://b.test", "http://b.test"]
    assert config.rules["b.test"].origins[0].tls == Tls(verify=False)
    assert config.tls["a.test:5000"] == Tls(verify=False)
    assert config.rule("a.test", 443) is None


def test_insecure_networks(read: Read) -> None:
    config = read(
        {
            "registry-mirrors": ["https://a.test"],
            "insecure-registries": ["10.9.8.7/8", "fd00::/8"],
            "registries": {"ghcr.io": []},
        }
    )
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"), *LOOPBACK)
    ghcr, hub = config.rules["ghcr.io"], config.rules["docker.io"]
    assert {each.tls for each in (*ghcr.origins, *ghcr.mirrors, *hub.mirrors)} == {Tls(lenient=networks)}
    # As in dockerd.
    assert hub.origins[0].tls == Tls()


def test_loopback_is_insecure_unsaid(read: Read) -> None:
    (mirror,) = read({"registry-mirrors": ["https://a.test"]}).rules["docker.io"].mirrors
    assert mirror.tls == Tls(lenient=LOOPBACK)
    config = read({"registries": {"localhost:5000": ["https://a.test"], "ghcr.io": ["https://a.test"]}})
    assert asked(config.rules["localhost:5000"])[1:] == ["https://localhost:5000", "http://localhost:5000"]
    assert config.rules["ghcr.io"].origins == (Endpoint("ghcr.io", "https://ghcr.io", is_origin=True),)


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "https://registry-1.docker.io"])
def test_docker_hub_is_never_insecure(read: Read, name: str) -> None:
    config = read({"insecure-registries": [name]})
    assert config.rules == load([]).rules
    assert "insecure-registries[0]: Docker Hub is always verified" in config.warnings[-1]


def test_a_scheme_among_the_insecure_is_disregarded(read: Read) -> None:
    config = read({"insecure-registries": ["http://a.test:5000"]})
    assert asked(config.rule("a.test", 5000)) == ["https://a.test:5000", "http://a.test:5000"]
    assert "insecure-registries[0]" in config.warnings[0]


# --- what is wrong ---


@pytest.mark.parametrize(
    ("document", "told"),
    [
        pytest.param({"registry-mirrors": "https://a.test"}, ["registry-mirrors:", "a string", "["], id="no list"),
        pytest.param({"registry-mirrors": [["https://a.test"]]}, ["registry-mirrors[0]", "a list"], id="list in list"),
        pytest.param({"registry-mirrors": None}, ["registry-mirrors", "null"], id="null"),
        pytest.param({"registry-mirrors": [True]}, ["registry-mirrors[0]", "a boolean"], id="boolean"),
        pytest.param({"insecure-registries": {}}, ["insecure-registries", "an object"], id="object"),
        pytest.param({"insecure-registries": [5000]}, ["insecure-registries[0]", "a number"], id="number"),
        pytest.param({"registries": []}, ["registries:", "a list", '{"'], id="registries no object"),
        pytest.param({"registries": {"a.test": "b.test"}}, ['registries."a.test"', "a string"], id="mirrors no list"),
        pytest.param({"registries": {"a.test/x": []}}, ['registries."a.test/x"', "host[:port]"], id="no registry"),
        pytest.param(
            {"registries": {"docker.io": [], "index.docker.io": []}},
            ['registries."index.docker.io"', "same registry", 'registries."docker.io"'],
            id="one registry twice",
        ),
        pytest.param(
            {"registry-mirrors": ["a.test:5000"]}, ["registry-mirrors[0]", "scheme", "https://"], id="no scheme"
        ),
        pytest.param({"registry-mirrors": ["ftp://a.test"]}, ["registry-mirrors[0]", "https://"], id="ftp"),
        pytest.param({"registry-mirrors": ["https://"]}, ["registry-mirrors[0]", "host[:port]"], id="no host"),
        pytest.param({"registry-mirrors": ["https://a.test:99999"]}, ["host[:port]"], id="no port"),
        pytest.param({"registry-mirrors": ["https://a.test/../x"]}, ["path", "https://"], id="path up"),
        pytest.param({"registry-mirrors": ["https://a.test//x"]}, ["path", "https://"], id="empty part of a path"),
        pytest.param({"registries": {"a.test": ["b.test"]}}, ['registries."a.test"[0]', "scheme"], id="map, no scheme"),
        pytest.param({"insecure-registries": ["10.0.0.0/33"]}, ["insecure-registries[0]", "network"], id="no network"),
        pytest.param({"insecure-registries": ["10.0.0.0/255.0.0.0"]}, ["network", "10.0.0.0/8"], id="netmask"),
        pytest.param({"insecure-registries": ["a.test/x"]}, ["insecure-registries[0]", "network"], id="path"),
        pytest.param({"insecure-registries": ["ftp://a.test"]}, ["insecure-registries[0]", "network"], id="scheme"),
        pytest.param({"registry-mirror": []}, ['"registry-mirror"', "registry-mirrors"], id="misspelled"),
        pytest.param({"Insecure-Registry": []}, ['"Insecure-Registry"', "insecure-registries"], id="misspelled too"),
        pytest.param({"registrys": {}}, ['"registrys"', "registries"], id="misspelled map"),
        pytest.param('{"registry-mirrors": [], "registry-mirrors": []}', ['"registry-mirrors"', "twice"], id="twice"),
        pytest.param('{"registries": {"a.test": [], "a.test": []}}', ['registries."a.test"', "twice"], id="map, twice"),
        pytest.param('{"mtu": 1, "mtu": 2}', ['"mtu"', "twice"], id="dockerd's twice"),
        pytest.param("[]", ["no JSON object", "registry-mirrors"], id="no object"),
        pytest.param("{", ["not valid JSON", "line 1"], id="no JSON"),
        pytest.param("{'registry-mirrors': []}", ["not valid JSON"], id="single quotes"),
        pytest.param('{"mtu": NaN}', ["NaN"], id="NaN"),
        pytest.param('{"mtu": -Infinity}', ["-Infinity"], id="infinity"),
        pytest.param('{"mtu": ' + "1" * 5000 + "}", ["not valid JSON"], id="a long number"),
        pytest.param("[" * 100_000, ["nested too deeply"], id="nested"),
        pytest.param("\ufeff{}", ["byte order mark", "save it"], id="byte order mark"),
    ],
)
def test_errors_name_the_key_and_the_remedy(read: Read, document: object, told: list[str]) -> None:
    refused(read, document, *told)


@pytest.mark.parametrize("mirror", ["https://me:s3cret@a.test", "me:s3cret@a.test", "https://a.test/?token=s3cret"])
def test_secrets_are_not_shown(read: Read, mirror: str) -> None:
    assert "s3cret" not in refused(read, {"registry-mirrors": [mirror]}, "registry-mirrors[0]")


def test_bytes_that_are_no_text(file: Path) -> None:
    file.write_bytes(b'{"registry-mirrors": ["\xff"]}')
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 23\)"):
        load([file])


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; check the path"):
        load([file])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
AUTHORITIES = st.from_regex(r"[a-zA-Z0-9._*-]{0,9}(:[0-9]{0,6})?|\[[0-9a-f:.%]{0,9}\]", fullmatch=True)
SCHEMES = st.sampled_from(("http://", "https://", "HTTPS://", "x://", ""))
URLS = st.builds("{}{}{}".format, SCHEMES, AUTHORITIES, st.text(string.printable + "İ\ud800", max_size=9))
PREFIXES = st.integers(-1, 200) | st.text(max_size=3)
NETWORKS = st.builds("{}/{}".format, AUTHORITIES | st.ip_addresses().map(str), PREFIXES)
LISTS = st.lists(URLS | AUTHORITIES | NETWORKS | VALUES, max_size=4)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "registry-mirrors": LISTS | VALUES,
        "insecure-registries": LISTS | VALUES,
        "registries": st.dictionaries(AUTHORITIES | st.text(max_size=9), LISTS | VALUES, max_size=4) | VALUES,
    },
)


def outcome(file: Path) -> Reading | ConfigError:
    try:
        return daemon_json.read(file)
    except ConfigError as error:
        return error


@given(DOCUMENTS | VALUES)
@example({"registries": {"\ud800": []}})
@example({"\ud800registry-mirrors": []})
@example({"insecure-registries": ["a" * 300]})
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_json_takes_is_a_reading_or_an_error(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document))
    found = outcome(file)
    if isinstance(found, ConfigError):
        assert str(file) in str(found)
        assert str(found).encode()  # or it could not be shown
    else:
        hub = [mirror for draft in found.drafts if draft.registry == "docker.io" for mirror in draft.mirrors]
        assert not any(mirror.told for mirror in hub)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_a_reading_or_an_error(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    found = outcome(file)
    assert isinstance(found, Reading) or str(file) in str(found)
