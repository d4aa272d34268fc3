"""The documentation holds together: links lead somewhere, blocks are what they say, and commands in them exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import bcrypt
import click
import pytest
from ruamel.yaml import YAML
from support.pages import Block, Page, pages
from support.proxy import ROOT

from addon.cli import main
from addon.config.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Authority

PAGES = {page.path: page for page in pages()}
BLOCKS = [block for page in PAGES.values() for block in page.blocks()]
CONTEXT = click.Context(main)
LANGUAGES = {"sh", "toml", "json", "yaml", "ini", "text", "dockerfile", "promql", "nginx"}

_TESTS = re.compile(r"tests/\S+\.py")

# Where packages are had from, which is for whoever installs them to say.
_INDEXES = re.compile(r"(^|\.)(pypi\.org|pythonhosted\.org|npmjs\.com|crates\.io|rubygems\.org)$")


def each(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=str)


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
class TestAPage:
    def test_links_lead_somewhere(self, page: Page) -> None:
        assert [str(link) for link in page.links() if not _leads_somewhere(page.path, link.target)] == []

    def test_code_is_fenced_and_says_what_it_is(self, page: Page) -> None:
        assert [str(block) for block in page.blocks() if block.language not in LANGUAGES] == []

    def test_commands_between_backticks_exist(self, page: Page) -> None:
        faults = [
            f"{page.name}:{line}: {fault}"
            for line, text in page.code()
            if re.match(r"mirrortap [a-z]+\b", text) and text.split()[1] in main.list_commands(CONTEXT)
            for fault in _faults(text)
        ]
        assert faults == []


def _leads_somewhere(page: Path, target: str) -> bool:
    url = urlsplit(target)
    if url.scheme or url.netloc:
        return url.scheme == "https" and "." in (url.hostname or "") and not _INDEXES.search(url.hostname or "")
    path = (page.parent / unquote(url.path)).resolve() if url.path else page
    if not path.is_relative_to(ROOT) or not path.exists():
        return False
    return not url.fragment or (path in PAGES and url.fragment in PAGES[path].anchors)


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in PAGES and path not in reached:
            reached.add(path)
            links = PAGES[path].links()
            waiting += [
                (path.parent / urlsplit(link.target).path).resolve() for link in links if ":" not in link.target
            ]
    assert sorted(page.name for path, page in PAGES.items() if path not in reached) == []


def test_every_image_is_shown_on_a_page() -> None:
    shown = {(page.path.parent / link.target).resolve() for page in PAGES.values() for link in page.links()}
    images = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".svg", ".png", ".jpg")]
    assert [path.name for path in images if path not in shown] == []


@pytest.mark.parametrize("image", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_a_drawing_says_in_words_what_it_shows_and_stands_alone(image: Path) -> None:
    root = ET.parse(image).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    for name in "title", "desc":
        assert (root.findtext(f"{svg}{name}") or "").strip()
    assert root.find(f".//{svg}script") is None
    assert not re.search(r"(href|src)=|url\((?!#)|@import", image.read_text())


@each([block for block in BLOCKS if block.language == "sh"])
def test_a_shell_block_parses_and_its_commands_exist(block: Block) -> None:
    parsed = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert [fault for line in _lines(block.text) for fault in _faults(line)] == []
    assert block.comments.get("not run") != "", f"{block}: say why it is not run"


@pytest.fixture
def named(tmp_path: Path, authority: Authority) -> Path:
    """A folder with the files that blocks name."""
    for name in "internal-ca.pem", "cdn.pem":
        (tmp_path / name).write_bytes(authority.file.read_bytes())
    for name, text in {
        "harbor.password": "secret",
        "config.json": '{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpzZWNyZXQ="}}}',
        "users": f"builder:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@each([block for block in BLOCKS if block.language in ("toml", "json")])
def test_a_configuration_is_accepted(block: Block, named: Path) -> None:
    default = "mirrortap.toml" if block.language == "toml" else "daemon.json"
    name = block.comments.get("as") or block.comments.get("file") or default
    path = named / ("docker.io/hosts.toml" if name == "hosts.toml" else name)
    path.parent.mkdir(exist_ok=True)
    # Wherever else a file is said to be, it is here.
    path.write_text(re.sub(r'"/(?:[^"/]+/)+([^"/]+)"', r'"\1"', block.text))
    assert load([path])


@each([block for block in BLOCKS if block.language == "yaml"])
def test_yaml_is_yaml(block: Block) -> None:
    assert list(YAML(typ="safe").load_all(block.text))


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Page) -> None:
    named = [text.partition("::") for _, text in page.code() if text.startswith("tests/")]
    named += [(path, "", "") for block in page.blocks() for path in _TESTS.findall(block.comments.get("not run", ""))]
    for path, _, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), name


def _lines(script: str) -> list[str]:
    return script.replace("\\\n", " ").splitlines()


def _faults(line: str) -> Iterator[str]:
    """What is wrong with the calls of mirrortap in a line of a shell script."""
    for words in _calls(line):
        command: click.Command = main
        arguments = list(words)
        while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
            name = arguments.pop(0)
            found = command.get_command(CONTEXT, name)
            if found is None:
                yield f"there is no command {name!r} in: {line}"
                return
            command = found
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"-h", "--help"}
        for word in arguments:
            option = word.strip("[]").partition("=")[0]
            if option.startswith("-") and option not in known:
                yield f"{command.name} has no option {option} in: {line}"


def _calls(line: str) -> Iterator[list[str]]:
    """Arguments of mirrortap, for each time that it is called."""
    words = shlex.shlex(line, posix=True, punctuation_chars=";|&()")
    words.whitespace_split = True
    words.commenters = "#"
    call: list[str] = []
    for word in [*words, ";"]:
        if not set(word) <= set(";|&()"):
            call.append(word)
            continue
        while call and re.match(r"[A-Za-z_]\w*=", call[0]):
            call.pop(0)
        if call and call[0].rpartition("/")[2] == "mirrortap":
            yield call[1:]
        if call and call[0] == "scripts/run":
            yield ["serve", *call[1:]]
        call = []
