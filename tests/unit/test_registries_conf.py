"""registries.conf: what its tables come to, and that whatever is wrong with one is said with a remedy."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import ValuesView
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.config import as_toml

from addon.config.formats import registries_conf
from addon.config.load import load
from addon.config.model import Config, ConfigError, Endpoint, Place, Rule, Tls
from addon.config.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Read = Callable[[str], Config]

HUB = Endpoint("docker.io", "https://registry-1.docker.io", is_origin=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registries.conf"


@pytest.fixture
def read(file: Path) -> Read:
    def read(text: str) -> Config:
        file.write_text(text)
        return load([file])

    return read


def mirror(name: str, base: str, replaces: str = "", **more: Any) -> Endpoint:
    return Endpoint(name, f"https://{name.partition('/')[0]}", base, replaces, ns=False, **more)


def origin(name: str, base: str = "/v2", replaces: str = "", **more: Any) -> Endpoint:
    return Endpoint(name, f"https://{name.partition('/')[0]}", base, replaces, is_origin=True, **more)


# --- what tables come to ---

# The examples of the manual page.
DOCUMENTED = """
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json"]
additional-layer-store-auth-helper = "helper"

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry.mirror]]
location = "127.0.0.2:5000"
pull-from-mirror = "tag-only"
"""


def test_the_manuals_example(read: Read, file: Path) -> None:
    config = read(DOCUMENTED)
    insecure = mirror("example-mirror-1.local/mirrors/foo", "/v2/mirrors/foo", "foo", tls=Tls(verify=False))
    rule = config.rules["example.com/foo"]
    assert rule == Rule(
        "example.com",
        (origin("internal-registry-for-example.com/bar", "/v2/bar", "foo", apart=True),),
        (
            mirror("example-mirror-0.local/mirror-for-foo", "/v2/mirror-for-foo", "foo"),
            insecure,
            replace(insecure, url="http://example-mirror-1.local", tls=Tls()),
            mirror("127.0.0.2:5000", "/v2", "foo", can=frozenset({"resolve"})),
        ),
        within="foo",
    )
    assert rule.place == Place(file, ("registry", 0))
    assert rule.mirrors[3].place == Place(file, ("registry", 0, "mirror", 2))
    assert [each.path("foo/image") for each in (*rule.mirrors, *rule.origins)] == [
        "/v2/mirror-for-foo/image",
        "/v2/mirrors/foo/image",
        "/v2/mirrors/foo/image",
        "/v2/image",
        "/v2/bar/image",
    ]
    assert config.warnings == ()
    assert config.files == {file, file.with_name("registries.conf.d")}
    assert config.sources == (file,)


@pytest.mark.parametrize(
    ("table", "pattern", "origins"),
    [
        ('location = "r.test"', "r.test", (origin("r.test"),)),
        ('location = "r.test/"', "r.test", (origin("r.test"),)),
        ('location = "R.test:443"', "r.test", (origin("r.test"),)),
        ('location = "r.test:5000/a/b"', "r.test:5000/a/b", (origin("r.test:5000"),)),
        ('prefix = "r.test"\nlocation = "r.test"', "r.test", (origin("r.test"),)),
        ('prefix = ""\nlocation = "r.test"', "r.test", (origin("r.test"),)),
        ('prefix = "r.test"\nlocation = "n.test:1/x"', "r.test", (origin("n.test:1/x", "/v2/x"),)),
        ('prefix = "r.test/a"\nlocation = "r.test/b"', "r.test/a", (origin("r.test/b", "/v2/b", "a"),)),
        ('prefix = "r.test/a"\nlocation = "n.test/a"', "r.test/a", (origin("n.test/a", apart=True),)),
        ('prefix = "r.test/a"\nlocation = "n.test"', "r.test/a", (origin("n.test", "/v2", "a", apart=True),)),
        ('prefix = "*.r.test"', "*.r.test", (origin("*.r.test"),)),
        ('prefix = "*.r.test"\nlocation = "n.test/x"', "*.r.test", (origin("n.test/x", "/v2/x"),)),
        ('location = "index.docker.io"', "docker.io", (HUB,)),
        (
            'prefix = "r.test"\nlocation = "docker.io/library"',
            "r.test",
            (replace(HUB, name="docker.io/library", base="/v2/library"),),
        ),
        (
            'location = "r.test"\ninsecure = true',
            "r.test",
            (origin("r.test", tls=Tls(verify=False)), replace(origin("r.test"), url="http://r.test")),
        ),
        ('location = "r.test"\ninsecure = true\nblocked = true', "r.test", ()),
    ],
)
def test_locations(table: str, pattern: str, origins: tuple[Endpoint, ...], read: Read) -> None:
    rule = read(f"[[registry]]\n{table}\n").rules[pattern]
    assert rule.origins == origins
    assert (rule.mirrors, rule.pattern) == ((), pattern)
    assert rule.blocked is ("blocked" in table)


def test_a_host_of_a_wildcard(read: Read) -> None:
    config = read('[[registry]]\nprefix = "*.corp.test"\ninsecure = true\nmirror = [{location = "m.test/corp"}]')
    rule = config.rule("a.b.corp.test", 443, "x/y")
    assert rule is not None
    assert [each.url + each.path("x/y") for each in (*rule.mirrors, *rule.origins)] == [
        "https://m.test/v2/corp/x/y",
        "https://a.b.corp.test/v2/x/y",
        "http://a.b.corp.test/v2/x/y",
    ]
    assert config.rule("corp.test", 443) is None


@pytest.mark.parametrize(
    ("said", "can"),
    [
        ("", {"pull", "resolve"}),
        ('pull-from-mirror = ""', {"pull", "resolve"}),
        ('pull-from-mirror = "all"', {"pull", "resolve"}),
        ('pull-from-mirror = "digest-only"', {"pull"}),
        ('pull-from-mirror = "tag-only"', {"resolve"}),
    ],
)
def test_what_a_mirror_may_be_asked_for(said: str, can: set[str], read: Read) -> None:
    config = read(f'[[registry]]\nlocation = "r.test"\n[[registry.mirror]]\nlocation = "m.test"\n{said}\n')
    assert config.rules["r.test"].mirrors[0].can == can


def test_mirrors_for_digests_only(read: Read) -> None:
    table = 'location = "r.test"\nmirror-by-digest-only = true\nmirror = [{location = "m.test"}, {location = "n.test"}]'
    assert [each.can for each in read(f"[[registry]]\n{table}\n").rules["r.test"].mirrors] == [{"pull"}] * 2


def test_what_is_blocked_may_have_mirrors(read: Read) -> None:
    """OpenShift's NeverContactSource: from the mirrors, or not at all."""
    config = read(
        '[[registry]]\nprefix = "r.test/a"\nlocation = "n.test"\nblocked = true\nmirror = [{location = "m.test"}]'
    )
    assert config.rules["r.test/a"] == Rule("r.test", (), (mirror("m.test", "/v2", "a"),), within="a")


def test_short_names_of_docker_hub_are_not_expanded(read: Read) -> None:
    """As the manual says: docker.io/busybox is a namespace; the image is docker.io/library/busybox."""
    config = read('[[registry]]\nlocation = "docker.io/busybox"\nblocked = true')
    for repository, blocked in {"library/busybox": False, "busybox": True, "busybox/x": True}.items():
        rule = config.rule("registry-1.docker.io", 443, repository)
        assert rule is not None
        assert rule.blocked is blocked


def test_of_tables_with_one_prefix_the_first_counts(read: Read) -> None:
    config = read('[[registry]]\nlocation = "r.test"\n[[registry]]\nprefix = "r.test"\nlocation = "n.test"\n')
    assert config.rules["r.test"].origins == (origin("r.test"),)
    (warning,) = config.warnings
    assert "registry[1]: is not used: registry[0] is about the same, r.test" in warning
    assert read('[[registry]]\nlocation = "r.test"\n' * 2).warnings == ()


def test_drop_ins_replace_tables_of_the_same_prefix(file: Path, read: Read) -> None:
    folder = file.with_name("registries.conf.d")
    (folder / "sub.conf").mkdir(parents=True)
    for name, text in {
        "b.conf": '[[registry]]\nlocation = "r.test"\nmirror = [{location = "b.test"}]',
        "a.conf": '[[registry]]\nlocation = "r.test"\n[[registry]]\nlocation = "s.test"\nblocked = true',
        "c.toml": "nonsense",
    }.items():
        (folder / name).write_text(text)
    config = read(
        '[[registry]]\nlocation = "r.test"\nblocked = true\n[[registry]]\nlocation = "t.test"\nblocked = true'
    )
    assert config.rules.keys() - {"docker.io"} == {"r.test", "s.test", "t.test"}
    assert config.rules["r.test"] == Rule("r.test", (origin("r.test"),), (mirror("b.test", "/v2"),))
    assert config.rules["r.test"].place == Place(folder / "b.conf", ("registry", 0))
    assert config.files == {file, folder, folder / "a.conf", folder / "b.conf"}


def test_any_name_of_a_file_will_do(tmp_path: Path) -> None:
    named = tmp_path / "podman.toml"
    named.write_text('[[registry]]\nlocation = "r.test"\nblocked = true')
    assert load([named]).rules["r.test"].blocked


# --- what is refused ---


def refused(file: Path, *told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([file])
    message = str(caught.value)
    assert all(line.startswith(f"{file}") for line in message.splitlines()), message
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[registries.search]\nregistries = ["a"]', ["registries: is of version 1", "[[registry]]", "unqualified-"]),
        ("[registries]\n", ["registries: is of version 1"]),
        ('[registry."docker.io"]', ["registry: is written [[registry]] here", ".toml"]),
        ("registry = 1", ["registry: ", "list"]),
        ("[[registry]]", ["registry[0]: has neither prefix nor location", 'location = "host[:port][/path]"']),
        ('[[registry]]\nprefix = "r.test"', ["registry[0].location: is missing", 'write location = "r.test"']),
        ('[[registry]]\nlocaton = "r.test"', ["registry[0].locaton", "did you mean location?"]),
        ('[[registry]]\nlocation = "r.test"\nmirrors = []', ["registry[0].mirrors: unknown key; did you mean mirror?"]),
        ("[[registry]]\nlocation = 1", ["registry[0].location", "string", "(it is 1)"]),
        ('[[registry]]\nlocation = "r.test"\ninsecure = "yes"', ["registry[0].insecure", "boolean"]),
        ('[[registry]]\nlocation = "r.test"\npull-from-mirror = "all"', ["registry[0].pull-from-mirror: unknown key"]),
        ("unqualified-search = true", ["unqualified-search: unknown key", "unqualified-search-registries?"]),
        ('[[registry]]\nlocation = "https://r.test"', ["registry[0].location", "has a scheme", "host[:port][/path]"]),
        ('[[registry]]\nlocation = "http://r.test"', ["has a scheme", "insecure = true"]),
        ('[[registry]]\nlocation = "r.test/A"', ["registry[0].location", "no part of a repository's name"]),
        ('[[registry]]\nlocation = "r.test:99999"', ["registry[0].location", "is not host[:port]"]),
        ('[[registry]]\nlocation = "/"', ["registry[0].location", "is not host[:port]"]),
        ('[[registry]]\nlocation = "r.test/a:1.0"', ["registry[0].location", "about one tag", "leave that out"]),
        ('[[registry]]\nlocation = "*.r.test"', ["registry[0].location", "names no one place", "prefix"]),
        ('[[registry]]\nprefix = "*.r.test"\nlocation = "*.n.test"', ["registry[0].location", "names no one place"]),
        ('[[registry]]\nprefix = "*.r.test/a"', ["registry[0].prefix", "is no wildcard", "without a port or a path"]),
        ('[[registry]]\nprefix = "*.r.test:5000"', ["registry[0].prefix", "is no wildcard"]),
        ('[[registry]]\nprefix = "a.*.test"\nlocation = "n.test"', ["registry[0].prefix", "is not host[:port]"]),
        (
            '[[registry]]\nlocation = "r.test"\n[[registry.mirror]]\ninsecure = true',
            ["registry[0].mirror[0].location", "required"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nmirror = [{location = ""}]',
            ["registry[0].mirror[0].location", "is not host[:port]"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nmirror = [{location = "*.m.test"}]',
            ["registry[0].mirror[0].location", "names no one place"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nmirror = [{location = "m.test", pull-from-mirror = "digest"}]',
            ["registry[0].mirror[0].pull-from-mirror", "'digest-only'", "'digest'"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nmirror-by-digest-only = true\n'
            '[[registry.mirror]]\nlocation = "m.test"\npull-from-mirror = "all"',
            ["registry[0].mirror[0].pull-from-mirror", "mirror-by-digest-only", "keep one of the two"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\n[[registry]]\nprefix = "a.test"\nlocation = "r.test/"\ninsecure = true',
            ["registry[1].insecure", "registry[0] says of the same location, r.test", "the same in both"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nblocked = true\n[[registry]]\nprefix = "a.test"\nlocation = "r.test"',
            ["registry[1].blocked", "registry[0] says of the same location, r.test"],
        ),
        (
            '[[registry]]\nprefix = "192.0.2.1"\nlocation = "r.test"',
            ["registry[0]: says that it is elsewhere, which cannot be kept", "IP address"],
        ),
        ('[[registry]]\nlocation = "192.0.2.1"\nblocked = true', ["registry[0].blocked", "cannot be kept"]),
        (
            '[[registry]]\nlocation = "r.test"\nmirror = [{location = "m.test/x/y"}]\n'
            '[[registry]]\nlocation = "m.test/x"\nblocked = true',
            ["registry[0].mirror[0].location: m.test/x/y is blocked by", "registry[1]", "take one of the two out"],
        ),
        (
            '[[registry]]\nlocation = "r.test"\nblocked = true\nmirror = [{location = "r.test/mirror"}]',
            ["registry[0].mirror[0].location: r.test/mirror is blocked by"],
        ),
        (
            '[[registry]]\nlocation = "docker.io"\nblocked = true\n'
            '[[registry]]\nprefix = "r.test"\nlocation = "docker.io/r"',
            ["registry[1].location: docker.io/r is blocked by"],
        ),
        ("[[registry]", ["is not valid TOML"]),
    ],
)
def test_what_is_refused(text: str, told: list[str], file: Path) -> None:
    file.write_text(text)
    refused(file, *told)


def test_contradictions_are_of_one_file(file: Path, read: Read) -> None:
    """As for the client: a drop-in may say of a location what the file says otherwise."""
    folder = file.with_name("registries.conf.d")
    folder.mkdir()
    (folder / "a.conf").write_text('[[registry]]\nprefix = "a.test"\nlocation = "r.test"\ninsecure = true')
    config = read('[[registry]]\nlocation = "r.test"')
    assert [each.url for each in config.rules["a.test"].origins] == ["https://r.test", "http://r.test"]
    assert config.rules["r.test"].origins == (origin("r.test"),)


def test_a_drop_in_that_is_wrong(file: Path) -> None:
    file.write_text("")
    folder = file.with_name("registries.conf.d")
    folder.mkdir()
    (folder / "a.conf").write_text("[registries.block]")
    refused(file, f"{folder / 'a.conf'}: registries: is of version 1")


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "registries.conf", "there is no such file")
    folder = tmp_path / "registries.conf.d"
    folder.mkdir()
    refused(folder, "holds drop-ins", f"name {tmp_path / 'registries.conf'} instead")
    (tmp_path / "other.conf").write_text("")
    (tmp_path / "other.conf.d").write_text("")
    with pytest.raises(ConfigError, match=r"other.conf.d: is where drop-ins are, and cannot be read: Not a directory"):
        load([tmp_path / "other.conf"])


# --- anything that is TOML ---


places = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "*.", "https://", "a.*."]),
    st.sampled_from(["r.test", "m.test:5000", "docker.io", "127.0.0.1:1", "[::1]", "a_b", "1.2", "", "x" * 300]),
    st.sampled_from(["", "", "/", "/a", "/a/b/", "/A", "/a:1", "/a@sha256:0", ":99999", ":0", "//", "\0"]),
)
words = places | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(words, st.booleans(), st.integers(), st.floats(), st.dates())
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


def table(keys: dict[str, st.SearchStrategy[Any]], *, wild: bool) -> st.SearchStrategy[Any]:
    known = st.fixed_dictionaries({}, optional={key: each | anything if wild else each for key, each in keys.items()})
    return known | anything if wild else known


def document(*, wild: bool) -> st.SearchStrategy[dict[str, Any]]:
    choices = st.sampled_from(["", "all", "digest-only", "tag-only"])
    of_mirror = {"location": places, "insecure": st.booleans(), "pull-from-mirror": choices}
    of_registry = {
        "prefix": places,
        "location": places,
        "insecure": st.booleans(),
        "blocked": st.booleans(),
        "mirror-by-digest-only": st.booleans(),
        "mirror": st.lists(table(of_mirror, wild=wild), max_size=2),
    }
    keys = {"registry": st.lists(table(of_registry, wild=wild), max_size=3), "aliases": anything}
    return st.fixed_dictionaries({}, optional={key: each | anything if wild else each for key, each in keys.items()})


@settings(max_examples=50)
@given(document(wild=False) | document(wild=True) | st.dictionaries(words, anything, max_size=3))
@example({"registry": {"a": 1}})
@example({"registry": [{"location": "\0"}]})
@example({"registry": [{"prefix": "*.127.0.0.1"}]})
@example({"registry": [{"prefix": 10**400}]})
def test_any_toml_is_a_reading_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.conf"
    text = "".join(f"{as_toml(key)} = {as_toml(value)}\n" for key, value in document.items())
    tomllib.loads(text)
    file.write_text(text)
    outcomes = [outcome(file, registries_conf.read), outcome(file, lambda path: load([path]))]
    for told in outcomes:
        if isinstance(told, str):
            assert all(line.startswith(f"{file}: ") for line in told.splitlines())
    for draft in outcomes[0].drafts if isinstance(outcomes[0], Reading) else ():
        for endpoint in (*draft.mirrors, *(draft.origins or ())):
            assert endpoint.path(f"{draft.within}/app" if draft.within else "app").startswith("/v2/")


def outcome(file: Path, read: Callable[[Path], Reading | Config]) -> Reading | Config | str:
    try:
        return read(file)
    except ConfigError as error:
        return str(error)


# --- ten thousand rules ---


LOOKED: Counter[str] = Counter()


class Counting[K, V](dict[K, V]):
    """Counts how often it is looked into, and what it gives to who goes through it."""

    def __contains__(self, key: object) -> bool:
        LOOKED["in"] += 1
        return super().__contains__(key)

    def __getitem__(self, key: K) -> V:
        LOOKED["item"] += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[K]:
        for key in super().__iter__():
            LOOKED["gone through"] += 1
            yield key

    def values(self) -> ValuesView[V]:  # type: ignore[override]
        return ValuesView(self)


def counted(config: Config) -> Config:
    """The same, whose rules count."""
    rules = {host: Counting(paths) for host, paths in config._rules.items()}
    config.__dict__["_rules"] = Counting(rules)
    return config


def looks(config: Config, host: str, repository: str) -> int:
    LOOKED.clear()
    assert config.rule(host, 443, repository)
    return LOOKED.total()


def test_ten_thousand_tables(read: Read) -> None:
    def tables(count: int) -> str:
        wide = "".join(
            f'[[registry]]\nprefix = "h{i}.test"\nlocation = "n.test/h{i}"\nmirror = [{{location = "m.test/h{i}"}}]\n'
            for i in range(count // 2)
        )
        return wide + "".join(
            f'[[registry]]\nlocation = "docker.io/ns{i}"\nblocked = true\n' for i in range(count // 2)
        )

    few, many = counted(read(tables(10))), counted(read(tables(10_000)))
    assert len(many.rules) == 10_000
    found = many.rule("h4999.test", 443, "a/b/c")
    assert found is not None
    assert [each.path("a/b/c") for each in (*found.mirrors, *found.origins)] == ["/v2/h4999/a/b/c"] * 2
    found = many.rule("index.docker.io", 443, "ns4999/b")
    assert found is not None
    assert found.blocked
    for host, repository in (("h0.test", "a/b/c"), ("index.docker.io", "ns0/b"), ("docker.io", ""), ("quay.io", "x")):
        assert looks(many, host, repository) == looks(few, host, repository) < 30
