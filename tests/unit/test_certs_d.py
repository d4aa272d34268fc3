"""certs.d: what hosts.toml comes to, as containerd means it, and that whatever is wrong is said with a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.config import as_toml

from addon.config.formats import certs_d
from addon.config.load import load
from addon.config.model import ConfigError, Endpoint, KeyPair, Place, Rule, Tls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.certificates import Authority

    Write = Callable[..., Path]

ALL = frozenset({"pull", "resolve", "referrers"})
HUB = Endpoint("docker.io", "https://registry-1.docker.io", is_origin=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "certs.d"
    folder.mkdir()
    return folder


@pytest.fixture
def write(root: Path) -> Write:
    """write(text, host="docker.io"): the hosts.toml of a host's folder."""

    def write(text: str, host: str = "docker.io") -> Path:
        folder = root / host
        folder.mkdir(exist_ok=True)
        (folder / "hosts.toml").write_text(text)
        return folder / "hosts.toml"

    return write


def rule(root: Path, host: str = "docker.io") -> Rule:
    found = load([root]).rule(host, 443)
    assert found
    return found


def order(rule: Rule) -> list[str]:
    """URL and base, of the mirrors and then, in brackets, the origins."""
    return [e.url + e.base for e in rule.mirrors] + [f"({e.url}{e.base})" for e in rule.origins]


def refused(path: Path, *told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([path])
    for part in told:
        assert part in str(caught.value)


# --- hosts in order, then server ---

HUB_ITSELF = "(https://registry-1.docker.io/v2)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [HUB_ITSELF]),
        ("# nothing\n", [HUB_ITSELF]),
        # Any order but the alphabet's, and without a scheme.
        (
            '[host."https://m.test"]\n[host."http://a.test"]\n[host."z.test:8443/us"]',
            ["https://m.test/v2", "http://a.test/v2", "https://z.test:8443/us/v2", HUB_ITSELF],
        ),
        # A table that is told of below its own counts where it is first named.
        (
            '[host."https://b.test".header]\nx = "1"\n[host."https://a.test"]\n[host."https://b.test"]',
            ["https://b.test/v2", "https://a.test/v2", HUB_ITSELF],
        ),
        # Paths.
        ('[host."https://m.test/"]', ["https://m.test/v2", HUB_ITSELF]),
        ('[host."https://m.test/v2"]', ["https://m.test/v2", HUB_ITSELF]),
        ('[host."https://m.test/v2/"]', ["https://m.test/v2", HUB_ITSELF]),
        ('[host."https://m.test/v2/hub"]', ["https://m.test/v2/hub/v2", HUB_ITSELF]),
        ('[host."https://m.test/v2/hub"]\noverride_path = true', ["https://m.test/v2/hub", HUB_ITSELF]),
        ('[host."https://m.test//a/./b/"]\noverride_path = true', ["https://m.test/a/b", HUB_ITSELF]),
        ('[host."https://m.test"]\noverride_path = true', ["https://m.test", HUB_ITSELF]),
        # The registry itself, however it is named.
        ('server = "https://docker.io"', [HUB_ITSELF]),
        ('server = "registry-1.docker.io"', [HUB_ITSELF]),
        ('server = "https://docker.io"\n[host."https://registry-1.docker.io"]', [HUB_ITSELF]),
        ('server = "https://registry-1.docker.io"\n[host."https://m.test"]', ["https://m.test/v2", HUB_ITSELF]),
        # In its turn, and once more as the client.
        (
            '[host."https://registry-1.docker.io"]\n[host."https://m.test"]',
            ["https://registry-1.docker.io/v2", "https://m.test/v2", HUB_ITSELF],
        ),
        # Somewhere else.
        ('server = "https://n.test"\n[host."https://m.test"]', ["https://m.test/v2", "(https://n.test/v2)"]),
        ('server = "https://n.test/hub"', ["(https://n.test/hub/v2)"]),
        # Never.
        ('server = "https://m.test"\n[host."https://m.test"]', ["https://m.test/v2"]),
        (
            'server = "https://m.test/b"\n[host."https://m.test/a"]\n[host."https://n.test"]',
            ["https://m.test/a/v2", "https://n.test/v2", "https://m.test/b/v2"],
        ),
        (
            'server = "https://m.test"\n[host."https://m.test"]\ncapabilities = ["pull"]',
            ["https://m.test/v2", "https://m.test/v2"],
        ),
        # TLS is tried first where it is set up, but for a port that says there is none.
        ('[host."http://m.test"]\nskip_verify = true', ["https://m.test/v2", "http://m.test/v2", HUB_ITSELF]),
        ('[host."http://m.test:80"]\nskip_verify = true', ["http://m.test:80/v2", HUB_ITSELF]),
    ],
)
def test_who_is_asked(text: str, expected: list[str], root: Path, write: Write) -> None:
    write(text)
    assert order(rule(root)) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", [("https", False)]),
        ("localhost_443_", [("https", False)]),
        ("localhost_80_", [("http", True)]),
        ("localhost_5000_", [("https", False), ("http", False)]),
        ("r.test_5000_", [("https", True)]),
    ],
)
def test_itself_as_containerd_reaches_it(host: str, expected: list[tuple[str, bool]], root: Path, write: Write) -> None:
    write("", host)
    (found,) = [found for found in load([root]).rules.values() if found.registry != "docker.io"]
    assert [(each.url.partition(":")[0], each.tls.verify) for each in found.origins] == expected


def test_a_moved_origin_is_told_which_registry_is_meant(root: Path, write: Write) -> None:
    write('server = "https://n.test"')
    (moved,) = rule(root).origins
    assert (moved.is_origin, moved.told) == (True, True)
    write('server = "https://docker.io"\n[host."https://registry-1.docker.io"]\n[host."https://m.test"]')
    own, mirror = rule(root).mirrors
    assert (own.told, mirror.told, rule(root).origins[0].told) == (False, True, False)


# --- what a host may answer ---


@pytest.mark.parametrize(
    ("capabilities", "can"),
    [
        ("[]", ALL),
        ('["pull"]', {"pull"}),
        ('["Pull", "RESOLVE", "push"]', {"pull", "resolve"}),
        ('["referrers"]', {"referrers"}),
        ('["resolve", "referrers"]', {"referrers"}),
    ],
)
def test_capabilities(capabilities: str, can: set[str], root: Path, write: Write) -> None:
    write(f'[host."https://m.test"]\ncapabilities = {capabilities}')
    assert rule(root).mirrors[0].can == can
    warned = [warning for warning in load([root]).warnings if "without pull it is asked for referrers alone" in warning]
    assert bool(warned) == ("pull" not in can)


def test_a_host_without_pull_is_left_out_and_told_of(root: Path, write: Write) -> None:
    path = write('[host."https://m.test"]\ncapabilities = ["resolve", "push"]\n[host."https://n.test"]')
    assert order(rule(root)) == ["https://n.test/v2", HUB_ITSELF]
    (warning,) = load([root]).warnings
    assert warning.startswith(f'{path}: host."https://m.test".capabilities: without pull it is never asked')


def test_capabilities_of_server(root: Path, write: Write) -> None:
    path = write('server = "https://registry-1.docker.io"\ncapabilities = ["push"]\n[host."https://m.test"]')
    assert rule(root).origins[0].can == frozenset()
    assert load([root]).warnings[0].startswith(f"{path}: capabilities: without pull docker.io is asked only")
    # Without server containerd forgets them.
    path = write('capabilities = ["push"]')
    assert rule(root).origins == (HUB,)
    assert load([root]).warnings == (f"{path}: capabilities: means nothing without server, to containerd too",)


# --- how hosts are reached ---


def test_tls_headers_and_patience(root: Path, write: Write, authority: Authority) -> None:
    pair = authority.pair("client")
    both = root / "both.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    path = write(
        f"""
        server = "https://registry-1.docker.io"
        ca = "{authority.file}"
        dial_timeout = "1m30.5s"
        [header]
          x-server = "s"
        [host."https://m.test"]
          ca = ["{authority.file}"]
          client = [["{pair.cert}", "{pair.key}"], ["../both.pem", ""], "../both.pem"]
          skip_verify = true
          dial_timeout = "250ms"
          [host."https://m.test".header]
            Authorization = "Basic c2VjcmV0"
            x-two = ["1", "2"]
        [host."https://n.test"]
          client = "../both.pem"
        """
    )
    first, second = rule(root).mirrors
    one = KeyPair(path.parent / "../both.pem", path.parent / "../both.pem")
    assert first.tls == Tls((authority.file,), (KeyPair(pair.cert, pair.key), one, one), verify=False)
    assert first.headers == (("Authorization", "Basic c2VjcmV0"), ("x-two", "1"), ("x-two", "2"))
    assert (first.dial_timeout, second.dial_timeout) == (0.25, None)
    assert (second.tls, second.headers) == (Tls(keypairs=(one,)), ())
    (origin,) = rule(root).origins
    assert (origin.tls, origin.headers) == (Tls((authority.file,)), (("x-server", "s"),))
    assert origin.dial_timeout == 90.5
    assert (first.place, origin.place) == (Place(path, ("host", "https://m.test")), Place(path, ("server",)))
    assert load([root]).files >= {root, path.parent, path, authority.file, path.parent / "../both.pem"}


def test_the_registry_itself_as_its_own_host(root: Path, write: Write, authority: Authority) -> None:
    """How containerd's users have it trust a CA."""
    write(f'server = "https://r.test"\n[host."https://r.test"]\nca = "{authority.file}"\n', "r.test")
    found = rule(root, "r.test")
    assert found.mirrors == ()
    assert found.origins == (Endpoint("r.test", "https://r.test", tls=Tls((authority.file,)), is_origin=True),)


# As in containerd's own documentation: all that its tables may have.
DOCUMENTED = """
[host."https://mirror.registry"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  [host."https://mirror.registry".header]
    x-custom-2 = ["value1", "value2"]

[host."https://mirror-bak.registry/us"]
  capabilities = ["pull"]
  skip_verify = true

[host."http://mirror.registry"]
  capabilities = ["pull"]

[host."https://test-1.registry"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["/etc/certs/test-1-ca.pem", "/etc/certs/special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"],["/etc/certs/client.pem", ""]]

[host."https://test-2.registry"]
  client = "/etc/certs/client.pem"

[host."https://test-3.registry"]
  client = ["/etc/certs/client-1.pem", "/etc/certs/client-2.pem"]

[host."https://non-compliant-mirror.registry/v2/upstream"]
  capabilities = ["pull"]
  override_path = true
"""


def test_containerds_documentation_works_unchanged(
    root: Path, write: Write, tmp_path: Path, authority: Authority
) -> None:
    pair = authority.pair("client")
    for name in ("mirror", "test-1-ca", "special"):
        (tmp_path / f"{name}.pem").write_bytes(authority.file.read_bytes())
    for name in ("client", "client-1", "client-2"):
        (tmp_path / f"{name}.pem").write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    (tmp_path / "client.cert").write_bytes(pair.cert.read_bytes())
    (tmp_path / "client.key").write_bytes(pair.key.read_bytes())
    write(DOCUMENTED.replace("/etc/certs", str(tmp_path)), "myregistry.io_5000_")
    config = load([root])
    assert config.warnings == ()
    assert order(config.rules["myregistry.io:5000"]) == [
        "https://mirror.registry/v2",
        "https://mirror-bak.registry/us/v2",
        "http://mirror.registry/v2",
        "https://test-1.registry/v2",
        "https://test-2.registry/v2",
        "https://test-3.registry/v2",
        "https://non-compliant-mirror.registry/v2/upstream",
        "(https://myregistry.io:5000/v2)",
    ]
    pulls = [each for each in config.rules["myregistry.io:5000"].mirrors if each.can == {"pull"}]
    assert [each.name for each in pulls] == [
        "mirror.registry",
        "mirror-bak.registry/us",
        "mirror.registry",
        "non-compliant-mirror.registry/v2/upstream",
    ]


# --- folders ---


def test_folders(root: Path, write: Write) -> None:
    for host in ("docker.io", "r.test_5000_", "s.test:5000", "_default"):
        write(f'[host."https://{host.strip("_")[0]}.mirror"]', host)
    (root / "..data").mkdir()
    (root / "README").write_text("")
    config = load([root])
    assert set(config.rules) == {"docker.io", "r.test:5000", "s.test:5000", "*"}

    def first(host: str, port: int = 443) -> str:
        found = config.rule(host, port)
        assert found
        return order(found)[0]

    assert first("r.test", 5000) == "https://r.mirror/v2"
    assert first("s.test", 5000) == "https://s.mirror/v2"
    assert first("ghcr.io") == "https://d.mirror/v2"
    assert config.rule("r.test", 443) is None
    assert [origin.url for origin in rule(root, "ghcr.io").origins] == ["https://ghcr.io"]


def test_a_default_with_settings_for_whatever_registry_it_is(root: Path, write: Write, authority: Authority) -> None:
    write(f'ca = "{authority.file}"', "_default")
    assert rule(root, "quay.io").origins == (
        Endpoint("quay.io", "https://quay.io", tls=Tls((authority.file,)), is_origin=True),
    )
    # A folder of its own, even an empty one, keeps a registry out of that.
    (root / "quay.io").mkdir()
    assert rule(root, "quay.io").origins == (Endpoint("quay.io", "https://quay.io", is_origin=True),)
    write('server = "https://m.test"', "_default")
    assert order(rule(root)) == ["(https://m.test/v2)"]


def test_certificates_as_docker_wants_them(root: Path, authority: Authority) -> None:
    pair = authority.pair("client")
    folder = root / "r.test"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(authority.file.read_bytes())
    (folder / "client.cert").write_bytes(pair.cert.read_bytes())
    (folder / "client.key").write_bytes(pair.key.read_bytes())
    (folder / "both.cert").write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    pairs = KeyPair(folder / "both.cert", folder / "both.cert"), KeyPair(folder / "client.cert", folder / "client.key")
    tls = Tls((folder / "ca.crt",), pairs)
    assert rule(root, "r.test").origins == (Endpoint("r.test", "https://r.test", tls=tls, is_origin=True),)
    config = load([root])
    assert config.tls["r.test"] == tls
    assert config.files >= {root, folder, folder / "ca.crt", folder / "client.key"}
    # An empty hosts.toml is none; any other counts alone.
    (folder / "hosts.toml").write_text("")
    assert rule(root, "r.test").origins[0].tls == tls
    (folder / "hosts.toml").write_text("# mine")
    assert rule(root, "r.test").origins[0].tls == Tls()
    (folder / "hosts.toml").unlink()
    (folder / "ca.crt").write_text("no certificate")
    refused(root, f"{folder}: ca.crt: ", "holds no PEM certificate")


def test_one_file(root: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[host."https://m.test"]', "r.test_5000_")
    write('[host."https://m.test"]', "other.test")
    assert set(load([path]).rules) == {"r.test:5000", "docker.io"}
    monkeypatch.chdir(path.parent)
    assert set(load([path.relative_to(path.parent)]).rules) == {"r.test:5000", "docker.io"}
    refused(path.parent, f"{path.parent}: is the folder of one registry: name {path}")
    path.unlink()
    refused(path, f"{path}: there is no such file")


def test_a_registry_by_address_is_only_reached(root: Path, write: Write) -> None:
    write('server = "http://10.0.0.7:5000"\n[host."http://10.0.0.7:5000"]\nskip_verify = true', "10.0.0.7:5000")
    config = load([root])
    assert (set(config.rules), config.warnings) == ({"docker.io"}, ())
    path = write('server = "https://m.test"', "10.0.0.7:5000")
    refused(root, f"{path}: says that it is elsewhere", "cannot be kept")


def test_beside_other_files(root: Path, write: Write, tmp_path: Path) -> None:
    """A registry's credential, or that all may read what is cached, is said in a file of mirrortap's own."""
    path = write('server = "https://m.test"\n[host."https://m.test"]\nheader = {Authorization = "Bearer secret"}')
    refused(root, f"{path}: who may read cannot be found out", 'add access = "open"')
    own = tmp_path / "mirrortap.toml"
    own.write_text('[registry."docker.io"]\naccess = "open"\n')
    config = load([own, root])
    assert (config.rules["docker.io"].open, order(config.rules["docker.io"])) == (True, ["https://m.test/v2"])


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("servr = 1", ["servr: unknown key; did you mean server?"]),
        ('[hosts."https://m.test"]', ["hosts: unknown key; did you mean host?"]),
        (
            '[host."https://m.test"]\ncapability = []',
            ['host."https://m.test".capability: unknown key; did you mean capabilities?'],
        ),
        # Not supported by containerd either, which says nothing.
        ('[host."https://m.test"]\n[host."https://m.test".host."https://n.test"]', ["unknown key"]),
        ("[host]\nskip_verify = true", ["host.skip_verify", "(it is True)"]),
        ('[host."https://m.test"]\nskip_verify = "yes"', ["skip_verify", "(it is 'yes')"]),
        ('[host."https://m.test"]\ncapabilities = ["pul"]', ["capabilities[0]", "(it is 'pul')"]),
        ('[host."https://m.test"]\ncapabilities = "pull"', ["capabilities", "(it is 'pull')"]),
        ("ca = 1", ["ca: write a text, or a list of texts"]),
        ('ca = "absent.pem"', ["ca: ", "absent.pem cannot be read: No such file"]),
        ('client = ["a", ["b"]]', ["client: ", "both.pem"]),
        ('client = "absent.pem"', ["client: ", "absent.pem"]),
        ('dial_timeout = "5"', ["dial_timeout", "write a duration", "(it is '5')"]),
        ('dial_timeout = "0s"', ["dial_timeout", "no time"]),
        ("dial_timeout = 5", ["dial_timeout", "write a duration"]),
        ('dial_timeout = "-1s"', ["dial_timeout", "write a duration"]),
        ('proxy = "http://p.test:3128"', ["proxy: mirrortap cannot reach one host through a proxy"]),
        ('[host."https://m.test"]\nproxy = "http://p"', ['host."https://m.test".proxy: mirrortap cannot']),
        ('[header]\n"a b" = "1"', ["header: 'a b' is no name"]),
        ('[header]\nHost = "n.test"', ["header: Host is set for each request"]),
        ('server = "ftp://m.test"', ["server: 'ftp://m.test' is not a URL"]),
        ('server = "httpd.test"', ["server: ", "write https:// before it"]),
        ('server = "https://m.test:99999"', ["server: 'm.test:99999' is not host[:port]"]),
        ('server = "https://m.test/a?b"', ["server: 'a?b' cannot be a path"]),
        ('[host."https://"]', ["""host."https://": '' is not host[:port]"""]),
        (
            'server = "https://m.test"\ncapabilities = ["push"]\n[host."https://m.test"]\ncapabilities = ["push"]',
            ["server: is one of the hosts, of which none may be pulled from"],
        ),
        ("server = ", ["is not valid TOML"]),
    ],
)
def test_what_is_refused(text: str, told: list[str], root: Path, write: Write) -> None:
    path = write(text)
    refused(root, f"{path}: ", *told)


@pytest.mark.parametrize(
    "text",
    [
        '[header]\nAuthorization = "Basic sesame\\n"',
        '[header]\nAuthorization = {value = "sesame"}',
        'header = "sesame"',
        '[host."https://user:sesame@m.test"]',
        '[host."https://user:sesame@m.test"]\nskip_verify = 1',
        'server = "https://sesame@m.test/v2"',
        'server = "user:sesame@m.test"',
        'proxy = "http://user:sesame@p.test"',
        'proxy = ["http://user:sesame@p.test"]',
        'host = [{header = {x = "sesame"}}]',
    ],
)
def test_secrets_are_in_no_error(text: str, root: Path, write: Write) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load([root])
    assert "sesame" not in str(caught.value)


def test_folders_that_are_refused(root: Path, write: Write) -> None:
    write("", "r.test_5000_")
    write("", "r.test:5000")
    refused(root, str(root / "r.test_5000_"), str(root / "r.test:5000"), "are for the same registry")
    (root / "r.test:5000" / "hosts.toml").unlink()
    (root / "r.test:5000").rmdir()
    (root / "not a host").mkdir()
    refused(root, f"{root / 'not a host'}: is not named like a registry", "rename it")
    (root / "not a host").rmdir()
    (root / "s.test" / "hosts.toml").mkdir(parents=True)
    refused(root, f"{root / 's.test' / 'hosts.toml'}: cannot be read: Is a directory")


# --- anything that is TOML ---

words = st.sampled_from(
    ["pull", "Resolve", "https://m.test", "m.test/x", "httpd", "", "\0", "1s", "a@b", "*", "[::1]:5"]
)
anything = st.recursive(
    words | st.text(max_size=5) | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
keys: dict[str, st.SearchStrategy[Any]] = {
    "capabilities": st.lists(words, max_size=2),
    "ca": words | st.lists(words, max_size=2),
    "client": words | st.lists(words | st.lists(words, max_size=3), max_size=2),
    "skip_verify": st.booleans(),
    "override_path": st.booleans(),
    "dial_timeout": st.sampled_from(["1s", "", "1h1h", "9" * 400 + "h", "-1s", "\u0661s", ".s"]),
    "header": st.dictionaries(words | st.text(max_size=3), words | st.lists(words, max_size=2), max_size=2),
    "proxy": words,
}
table = st.fixed_dictionaries({}, optional=keys) | st.fixed_dictionaries(
    {}, optional={key: each | anything for key, each in keys.items()}
)
urls = words | st.from_regex(r"(https?://)?[a-z]{1,3}(:[0-9]{1,5})?(/[a-z./]{0,5})?", fullmatch=True)


# The file is written anew each time; how long that takes says nothing.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=st.builds(
        lambda own, more: {**own, **more},
        table,
        st.fixed_dictionaries(
            {}, optional={"server": urls | anything, "host": st.dictionaries(urls, table | anything, max_size=3)}
        ),
    )
    | st.dictionaries(words, anything, max_size=2)
)
@example(document={"server": "https://[::1"})
@example(document={"ca": ["~nobody-of-this-name"]})
@example(document={"host": {"https://m.test/\u0661": {}}})
def test_any_toml_is_a_reading_or_a_config_error(root: Path, write: Write, document: dict[str, Any]) -> None:
    path = write("".join(f"{as_toml(key)} = {as_toml(value)}\n" for key, value in document.items()))
    try:
        reading = certs_d.read(root)
    except ConfigError as error:
        told = str(error)
        assert told.startswith(f"{path}: ")
    else:
        (draft,) = reading.drafts
        assert draft.registry == "docker.io"
        for each in (*draft.mirrors, *(draft.origins or ())):
            url = urlsplit(each.url + each.path("library/app"))
            assert url.scheme in ("http", "https")
            assert url.path.endswith("/library/app")
