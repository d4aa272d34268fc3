"""Plans carried out below a scratch root, and taken back: what was there before is there after, byte for byte."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import Authority
from support.tree import snapshot

from ca.trust import facts, targets
from ca.trust.apply import Applier
from ca.trust.certificates import Bundle
from ca.trust.errors import TrustError
from ca.trust.plan import Place, Plan, System, Wanted
from ca.trust.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = "var/lib/mirrortap/trust.json"
ON_DISK = [target.name for target in targets.ALL if not target.elsewhere]
HOSTS = ("ghcr.io", "quay.io", "registry.corp:5000")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    pems = [Authority(folder / str(number)).file.read_bytes() for number in range(2)]
    return [Bundle.parse(pem, "test") for pem in (*pems, pems[1] + pems[0])]


class Root:
    """A scratch root, and one target at a time in it."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder = folder
        self.bundle = bundle
        self.said: list[str] = []
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc/os-release").write_text('NAME="x"\nID=rocky\nID_LIKE="rhel fedora"\n')

    def plan(self, target: str, hosts: tuple[str, ...] = HOSTS) -> Plan:
        found = targets.find(target)
        assert found
        return found.plan(Wanted(self.bundle, hosts, system=facts.system(Tree(str(self.folder)))))

    def applier(self, target: str, *, dry: bool = False, force: bool = False) -> Applier:
        return Applier(Place(str(self.folder)), target, self.said.append, dry=dry, force=force)

    def install(self, target: str, hosts: tuple[str, ...] = HOSTS, *, dry: bool = False, force: bool = False) -> None:
        self.applier(target, dry=dry, force=force).install(self.plan(target, hosts))

    def uninstall(self, target: str, hosts: tuple[str, ...] = (), *, dry: bool = False, force: bool = False) -> bool:
        return self.applier(target, dry=dry, force=force).uninstall(self.plan(target), hosts)

    def write(self, path: str, data: bytes = b"theirs\n") -> Path:
        found = self.folder / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(data)
        return found


@pytest.fixture
def root(tmp_path: Path, bundles: list[Bundle]) -> Root:
    folder = tmp_path / "root"
    folder.mkdir()
    return Root(folder, bundles[0])


@pytest.mark.parametrize("target", ON_DISK)
def test_what_was_installed_is_there_once_and_gone_after(root: Root, target: str) -> None:
    before = snapshot(root.folder)
    root.install(target, dry=True)
    assert snapshot(root.folder) == before

    root.install(target)
    puts = root.plan(target).puts
    assert [Path(root.folder / put.path.relative_to("/")).read_bytes() for put in puts] == [put.data for put in puts]
    once = snapshot(root.folder)
    root.said.clear()
    root.install(target)
    assert snapshot(root.folder) == once
    assert [line.partition(":")[0] for line in root.said if "to run" not in line] == ["already there"] * len(puts)

    root.uninstall(target, dry=True)
    assert snapshot(root.folder) == once
    assert root.uninstall(target)
    assert snapshot(root.folder) == before
    assert not root.uninstall(target)
    assert snapshot(root.folder) == before


_PARENTS = [
    "etc/docker/certs.d",
    "etc/containers",
    "etc/containerd/certs.d/quay.io",
    "etc/mirrortap",
    "var/lib/mirrortap",
]
_THEIRS = [
    "etc/docker/daemon.json",
    "etc/docker/certs.d/10.0.0.1/ca.crt",
    "etc/containerd/config.toml",
    "etc/mirrortap/x",
]
_STEPS = st.tuples(st.booleans(), st.sampled_from(ON_DISK), st.sets(st.sampled_from(HOSTS), min_size=1))


@given(
    folders=st.sets(st.sampled_from(_PARENTS)),
    theirs=st.sets(st.sampled_from(_THEIRS)),
    steps=st.lists(_STEPS, max_size=8),
    which=st.lists(st.integers(0, 2), min_size=8, max_size=8),
)
@settings(max_examples=30)
def test_whatever_was_done_in_whatever_order_leaves_no_trace(
    bundles: list[Bundle],
    folders: set[str],
    theirs: set[str],
    steps: list[tuple[bool, str, set[str]]],
    which: list[int],
) -> None:
    """Any folders there before, any targets and hosts put and taken, with the CA rotated in between."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Root(Path(scratch), bundles[0])
        for folder in folders:
            (root.folder / folder).mkdir(parents=True, exist_ok=True)
        for path in theirs:
            root.write(path)
        before = snapshot(root.folder)
        for (install, target, hosts), number in zip(steps, which, strict=False):
            root.bundle = bundles[number]
            if install:
                root.install(target, tuple(sorted(hosts)))
            else:
                # What buildkit and the system have is not divided by host.
                root.uninstall(target, tuple(hosts) if target not in ("buildkit", "system") else ())
        for target in ON_DISK:
            root.uninstall(target)
        assert snapshot(root.folder) == before


def test_one_host_is_undone_alone(root: Root) -> None:
    root.install("docker", ("quay.io",))
    one = snapshot(root.folder)
    root.install("docker", ("ghcr.io",))
    root.uninstall("docker", ("ghcr.io",))
    assert snapshot(root.folder) == one
    assert not root.uninstall("docker", ("ghcr.io",))


def test_a_file_of_somebody_else_stops_everything(root: Root) -> None:
    theirs = root.write("etc/containerd/certs.d/quay.io/hosts.toml", b'server = "https://q.corp"\n')
    before = snapshot(root.folder)
    with pytest.raises(TrustError) as refused:
        root.install("containerd")
    assert f"{theirs}: is there, and not ours; to keep it, add this" in str(refused.value)
    assert '[host."https://quay.io"]\n  ca = ["mirrortap.crt"]' in str(refused.value)
    assert snapshot(root.folder) == before


def test_what_is_written_over_when_told_so_comes_back(root: Root) -> None:
    theirs = root.write("etc/containerd/certs.d/quay.io/hosts.toml", b'server = "https://q.corp"\n')
    theirs.chmod(0o640)
    before = snapshot(root.folder)
    root.install("containerd", force=True)
    assert b"mirrortap.crt" in theirs.read_bytes()
    root.uninstall("containerd")
    assert snapshot(root.folder) == before


def test_a_file_that_was_changed_since_is_not_removed(root: Root) -> None:
    root.install("docker")
    changed = root.write("etc/docker/certs.d/quay.io/mirrortap.crt", b"another CA\n")
    before = snapshot(root.folder)
    with pytest.raises(TrustError, match="was changed since"):
        root.uninstall("docker")
    with pytest.raises(TrustError, match="is there, and not ours"):
        root.install("docker")
    assert snapshot(root.folder) == before
    assert root.uninstall("docker", force=True)
    assert not changed.exists()


def test_what_was_there_all_along_stays(root: Root) -> None:
    """The very CA, put there by hand: nothing to do, and so nothing to undo."""
    root.write("etc/docker/certs.d/quay.io/mirrortap.crt", root.bundle.pem)
    before = snapshot(root.folder)
    root.install("docker", ("quay.io",))
    assert not root.uninstall("docker")
    assert snapshot(root.folder) == before


def test_a_rotated_ca_takes_the_place_of_the_old_one(root: Root, bundles: list[Bundle]) -> None:
    anchors = root.folder / "etc/pki/ca-trust/source/anchors"

    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in anchors.iterdir()}

    old, new, both = (bundle.pems for bundle in bundles)
    root.install("system")
    assert held() == {"mirrortap.crt": old[0]}
    root.bundle = bundles[2]
    root.install("system")
    assert held() == {"mirrortap.crt": both[0], "mirrortap-2.crt": both[1]}
    root.bundle = bundles[1]
    root.install("system")
    assert held() == {"mirrortap.crt": new[0]}


@pytest.mark.parametrize(
    ("target", "theirs"),
    [
        ("containers", "etc/docker/certs.d/quay.io/client.cert"),  # podman reads the first folder that it finds
        ("containerd", "etc/containerd/certs.d/quay.io/ca.crt"),  # read while there is no hosts.toml
    ],
)
def test_nothing_is_put_that_hides_certificates_of_others(root: Root, target: str, theirs: str) -> None:
    path = root.write(theirs)
    before = snapshot(root.folder)
    with pytest.raises(TrustError) as refused:
        root.install(target)
    assert f"{path}: would no longer be read" in str(refused.value)
    assert snapshot(root.folder) == before
    # Ours is no reason: it is where it is wanted.
    path.unlink()
    path.parent.rmdir()
    root.install("docker")
    root.install(target)


def test_all_can_read_what_was_put(root: Root) -> None:
    """Daemons run as other users, and root may have a umask of 077."""
    umask = os.umask(0o077)
    try:
        root.install("docker")
    finally:
        os.umask(umask)
    assert (root.folder / "etc/docker/certs.d").stat().st_mode & 0o777 == 0o755
    assert (root.folder / "etc/docker/certs.d/quay.io/mirrortap.crt").stat().st_mode & 0o777 == 0o644


def test_a_link_does_not_lead_out_of_the_tree(root: Root, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root.folder / "etc/docker").symlink_to(outside)
    with pytest.raises(TrustError, match="a link leads out of"):
        root.install("docker")
    assert list(outside.iterdir()) == []


def test_a_link_within_the_tree_is_followed(root: Root) -> None:
    (root.folder / "etc/docker").symlink_to("../opt")
    (root.folder / "opt").mkdir()
    before = snapshot(root.folder)
    root.install("docker")
    assert (root.folder / "opt/certs.d/quay.io/mirrortap.crt").read_bytes() == root.bundle.pem
    root.uninstall("docker")
    assert snapshot(root.folder) == before


@pytest.mark.parametrize("text", [b"", b"[]", b'{"files": {"/a": {}}, "folders": []}', b"\xff"])
def test_a_damaged_record_is_an_error(root: Root, text: bytes) -> None:
    root.write(RECORD, text or b"{")
    with pytest.raises(TrustError, match=r"trust\.json: is not what mirrortap trust wrote"):
        root.install("docker")


def test_what_cannot_be_made_is_named(root: Root) -> None:
    root.write("etc/docker", b"a file\n")
    with pytest.raises(TrustError, match="etc/docker: cannot be made: File exists"):
        root.install("docker")


@pytest.fixture
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def roots_own(bundles: list[Bundle]) -> Iterator[Root]:
    with tempfile.TemporaryDirectory() as folder:
        root = Root(Path(folder), bundles[0])
        os.chmod(folder, 0o555)
        yield root
        os.chmod(folder, 0o755)


def test_without_the_right_to_write_it_says_who_has_it(roots_own: Root, as_nobody: None) -> None:
    with pytest.raises(TrustError, match=r"var: cannot be made: Permission denied; run this as root, with sudo"):
        roots_own.install("docker")


def test_a_folder_that_others_use_by_now_stays(root: Root) -> None:
    root.install("docker")
    theirs = root.write("etc/docker/daemon.json", b"{}")
    root.uninstall("docker")
    assert theirs.exists()
    assert not (root.folder / "etc/docker/certs.d").exists()
    assert not (root.folder / "var").exists()


def test_two_targets_have_folders_in_common(root: Root) -> None:
    before = snapshot(root.folder)
    root.install("docker")
    root.install("buildkit")
    root.uninstall("docker")
    assert (root.folder / "etc/mirrortap/buildkitd.toml").exists()
    root.uninstall("buildkit")
    assert snapshot(root.folder) == before


def test_os_release_says_which_system_it_is(root: Root) -> None:
    (root.folder / "usr/local/share/ca-certificates").mkdir(parents=True)
    assert facts.system(Tree(str(root.folder))) == System(
        ("rocky", "rhel", "fedora"), frozenset({"/usr/local/share/ca-certificates"})
    )
    (root.folder / "etc/os-release").unlink()
    root.write("usr/lib/os-release", b"ID=alpine\n")
    assert facts.system(Tree(str(root.folder))).ids == ("alpine",)


def test_a_system_that_is_not_running_is_told_what_to_run(root: Root) -> None:
    root.install("system")
    assert root.said[-1] == f"to run in {root.folder} when it is in use: update-ca-trust extract"


def test_what_somebody_has_removed_already_is_no_error(root: Root) -> None:
    before = snapshot(root.folder)
    root.install("docker", ("quay.io",))
    (root.folder / "etc/docker/certs.d/quay.io/mirrortap.crt").unlink()
    assert root.uninstall("docker")
    assert snapshot(root.folder) == before
