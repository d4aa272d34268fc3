"""The images that compose files, Kubernetes manifests and lists name; and which of these a file is."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.cache.reference import Reference
from addon.warming.platforms import Platform
from addon.warming.sources import compose, kubernetes, listing, nodes, reading
from addon.warming.sources.mentions import Mention, Mentions, Unusable
from addon.warming.sources.reading import Settings, SourceError, read
from addon.warming.wanted import Wanted, together

if TYPE_CHECKING:
    from pathlib import Path

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
SETTINGS = Settings({"V": "3"}, {"TAG": "1.0", "EMPTY": ""}, AMD64, (AMD64,))


def of_compose(text: str) -> Mentions:
    return compose.parse(nodes.documents(text), SETTINGS.environment)


def of_kubernetes(text: str) -> list[tuple[str, int]]:
    return [(each.image, each.line) for each in kubernetes.parse(nodes.documents(text)).images]


# --- compose ---


def test_a_compose_file() -> None:
    found = of_compose(
        """
x-common: &common
  image: common:1
  restart: always
services:
  web:
    image: nginx:${TAG}
    platform: linux/arm64
  db: {image: "postgres:${PG:-16}"}
  same:
    <<: *common
  another:
    <<: [*common, {image: no}]
    image: own
  cost:
    image: a$$b
  data:
    image: alpine
    volumes:
      - ./x:/x
      - {type: image, source: "data:${TAG}", target: /data}
"""
    )
    assert found.images == [
        Mention("nginx:1.0", 7, ARM64),
        Mention("postgres:16", 9),
        Mention("common:1", 3),
        Mention("own", 14),
        Mention("a$b", 16),
        Mention("alpine", 18),
        Mention("data:1.0", 21),
    ]
    assert found.notes == []


def test_what_of_a_compose_file_is_not_warmed() -> None:
    found = of_compose(
        """
include: [other.yaml]
services:
  app: {build: ., image: mine:1}
  child: {extends: {service: app}}
  odd: {}
"""
    )
    assert found == Mentions(
        [],
        [
            "what it includes is not looked into: name those files, too",
            "service app is built: name its Dockerfile to warm what that needs",
            "service child extends another: there is nothing to warm",
            "service odd has no image: there is nothing to warm",
        ],
    )


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("image: a:$NONE", "a:$NONE: $NONE has no value: set it in the environment of this command, or write"),
        ("image: a:${EMPTY:?needed}", "$EMPTY has no value: needed"),
        ("image: a:${TAG", "is followed by what is not understood here"),
        ("image: [a]", "a text is expected here"),
        ("image: ", "a text is expected here"),
        ("image: a\n    platform: a/b/c/d", "'a/b/c/d' is not a platform"),
    ],
)
def test_what_of_a_compose_file_cannot_be_used(service: str, told: str) -> None:
    with pytest.raises(Unusable) as caught:
        of_compose(f"services:\n  a:\n    {service}\n")
    assert told in str(caught.value)
    assert caught.value.line in (3, 4)


# --- Kubernetes ---


def test_kubernetes_manifests() -> None:
    found = of_kubernetes(
        """---
apiVersion: v1
kind: ConfigMap
data: {image: no}
---
---
apiVersion: batch/v1
kind: CronJob
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers:
            - name: one
              image: init:1
          containers: [{name: two, image: "main:1"}, {name: bare}]
          volumes:
            - name: model
              image: {reference: "quay.io/models/m:1", pullPolicy: Always}
            - {name: other, emptyDir: {}}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Pod, spec: {ephemeralContainers: [{image: debug}]}}
  - {apiVersion: example.com/v1, kind: Rollout, spec: {template: {spec: {containers: [{image: crd}]}}}}
"""
    )
    assert found == [("init:1", 16), ("main:1", 17), ("quay.io/models/m:1", 20), ("debug", 26), ("crd", 27)]


@pytest.mark.parametrize("image", ["'{{ .Values.image }}:1'", "a:$(TAG)", "{a: b}"])
def test_a_template_is_to_be_rendered_first(image: str) -> None:
    with pytest.raises(Unusable, match="is a template: render it first") as caught:
        of_kubernetes(f"kind: Pod\napiVersion: v1\nspec:\n  containers:\n    - image: {image}\n")
    assert caught.value.line == 5


# --- YAML that is none, or too much ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", 1),
        ("a: b\n c: d", 2),
        ("a: *none", 1),
        ("a: {{ .Values.x }}\nb: }", 2),
        ("a: \x01", 0),
        ("%YAML 9\n--- a", 1),
    ],
)
def test_no_yaml(text: str, line: int) -> None:
    with pytest.raises(Unusable, match="it is no YAML") as caught:
        nodes.documents(text)
    assert caught.value.line == line
    assert str(caught.value).isprintable()


def test_what_is_nested_too_deeply() -> None:
    with pytest.raises(Unusable, match="nested too deeply"):
        nodes.documents("[" * 600)


def test_aliases_that_would_come_to_billions() -> None:
    lines = ["a0: &a0 {containers: [{image: once}]}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert of_kubernetes("\n".join(lines)) == [("once", 1)]


def test_merges_that_would_come_to_billions() -> None:
    lines = ["a0: &a0 {image: x}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 30)]
    with pytest.raises(Unusable, match="too much is merged here"):
        of_kubernetes("\n".join(lines))
    with pytest.raises(Unusable, match="too much is merged here"):
        of_compose(f"a: &a {{}}\nservices: {{<<: [{', '.join(['*a'] * 17)}]}}")


def test_what_holds_itself() -> None:
    assert of_kubernetes("a: &a {b: *a, containers: [{image: once}]}") == [("once", 1)]
    with pytest.raises(Unusable, match="too much is merged here"):
        of_kubernetes("a: &a {<<: *a}")


@given(st.text(alphabet="services: image{}[]\n-&*<>a|'\"#") | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in of_compose, of_kubernetes:
        with suppress(Unusable):
            parse(text)


# --- lists ---


def test_a_list() -> None:
    text = "\ufeff# images\n\nalpine\n  nginx:1 # the web\nhost:5000/a#b\n"
    assert listing.parse(text).images == [Mention("alpine", 3), Mention("nginx:1", 4), Mention("host:5000/a#b", 5)]
    with pytest.raises(Unusable, match="one a line is expected") as caught:
        listing.parse("a\nb c")
    assert caught.value.line == 2


# --- which it is ---

DOCKERFILE = "# x\nFROM a:$V\nCOPY --from=two /x /y\nARG V\n"
COMPOSE = "services:\n  web: {image: a}\n"
KUBERNETES = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: a}]}\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Dockerfile", "FROM a", ["a"]),
        ("Containerfile", "FROM a", ["a"]),
        ("app.Dockerfile", "FROM a", ["a"]),
        ("Dockerfile.dev", "FROM a", ["a"]),
        ("dev.containerfile", "FROM a", ["a"]),
        ("build", "\n# x\nfrom a", ["a"]),
        ("build", "ARG V\nFROM a:$V", ["a:3"]),
        ("compose.yaml", COMPOSE, ["a"]),
        ("compose", COMPOSE, ["a"]),
        ("x.yml", KUBERNETES, ["a"]),
        ("x.json", '{"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "a"}]}}', ["a"]),
        ("x", f"---\n{KUBERNETES}", ["a"]),
        ("images.txt", "a\nlocalhost:5000/b:1\n# c\n", ["a", "localhost:5000/b:1"]),
        ("images", "", []),
        ("services", "services:\n", []),
    ],
)
def test_what_a_file_is(name: str, text: str, expected: list[str]) -> None:
    assert [each.image for each in reading.parse(name, text, SETTINGS).images] == expected


@pytest.mark.parametrize(("name", "text"), [("x.yaml", "a: b"), ("x.yaml", ""), ("notes", "some text here")])
def test_what_a_file_is_cannot_be_told(name: str, text: str) -> None:
    with pytest.raises(Unusable, match="what it is cannot be told"):
        reading.parse(name, text, SETTINGS)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE + "  built: {build: .}\n  arm: {image: 'ghcr.io/x/y:1', platform: linux/arm64}\n")
    found = read(str(file), SETTINGS)
    assert found.images == [
        (Reference("docker.io", "library/a", "latest"), None),
        (Reference("ghcr.io", "x/y", "1"), ARM64),
    ]
    assert found.notes == [f"{file}: service built is built: name its Dockerfile to warm what that needs"]


def test_a_file_without_images(tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_text("# none\n")
    assert read(str(file), SETTINGS).notes == [f"{file}: it names no image"]


def test_notes_are_fit_for_terminals(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text('services: {"a\\e[31m\\n": {build: .}}')
    assert read(str(file), SETTINGS).notes == [
        f"{file}: service a?[31m? is built: name its Dockerfile to warm what that needs"
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"alpine\nUPPER", ":2: 'docker.io/UPPER:latest': 'UPPER' is not a repository name"),
        (b"FROM a:$NONE", ":1: FROM a:$NONE: $NONE has no value"),
        (b"FROM ${A\x1b[31m", ":1: FROM ${A?[31m: ${ is followed by"),
        (b"a\xff", ": it is no text in UTF-8"),
        (b"a\0", ": it is no text"),
        (b"services: [", ":1: it is no YAML"),
        (b"#" * ((16 << 20) + 1), ": it has more than 16 MiB"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        read(str(file), SETTINGS)
    assert str(caught.value).startswith(f"{file}{told}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for file, why in (tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory"):
        with pytest.raises(SourceError) as caught:
            read(str(file), SETTINGS)
        assert str(caught.value) == f"{file}: cannot be read: {why}"


def test_standard_input_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"FROM\nalpine")))
    with pytest.raises(SourceError, match="standard input:1: "):
        read("-", SETTINGS)


# --- together ---


def test_each_image_once_for_all_its_platforms() -> None:
    one, two = Reference("docker.io", "library/a", "1"), Reference("docker.io", "library/b", "1")
    named = [(one, None), (two, ARM64), (one, ARM64), (one, AMD64)]
    assert together(named, (AMD64,)) == [Wanted(one, (AMD64, ARM64)), Wanted(two, (ARM64,))]
    assert together(named, None) == [Wanted(one, None), Wanted(two, (ARM64,))]
    assert together(reversed(named), None) == [Wanted(one, None), Wanted(two, (ARM64,))]
