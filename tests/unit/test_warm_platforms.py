"""Platforms as people write them, and which of an image's a client takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.warming.platforms import BadPlatform, Platform, chosen, this_machine

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
ARM = {variant: Platform.of("linux", "arm", variant) for variant in ("v5", "v6", "v7", "v8")}


@pytest.mark.parametrize(
    ("text", "platform", "shown"),
    [
        ("linux/amd64", AMD64, "linux/amd64"),
        ("linux/amd64/v1", AMD64, "linux/amd64"),
        ("linux/x86_64", AMD64, "linux/amd64"),
        ("Linux/AMD64", AMD64, "linux/amd64"),
        ("amd64", AMD64, "linux/amd64"),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3"), "linux/amd64/v3"),
        ("linux/arm64/v8", ARM64, "linux/arm64"),
        ("linux/aarch64", ARM64, "linux/arm64"),
        ("linux/arm", ARM["v7"], "linux/arm/v7"),
        ("linux/arm/v6", ARM["v6"], "linux/arm/v6"),
        ("linux/armel", ARM["v6"], "linux/arm/v6"),
        ("windows/amd64", Platform("windows", "amd64"), "windows/amd64"),
        ("linux/riscv64", Platform("linux", "riscv64"), "linux/riscv64"),
    ],
)
def test_platforms(text: str, platform: Platform, shown: str) -> None:
    assert Platform.parse(text) == platform
    assert str(platform) == shown
    assert Platform.parse(shown) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "/amd64", "linux/arm/v7/x", "linux amd64", "a/b\n/c", "linux/$X"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(BadPlatform, match="is not a platform: OS/ARCHITECTURE is"):
        Platform.parse(text)


@given(st.text(alphabet="abcv/_.-18 ") | st.text())
def test_any_text_is_one_or_none(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except BadPlatform:
        return
    assert Platform.parse(str(platform)) == platform


@pytest.mark.parametrize(
    ("machine", "platform"),
    [("x86_64", AMD64), ("aarch64", ARM64), ("armv7l", ARM["v7"]), ("s390x", Platform("linux", "s390x"))],
)
def test_this_machine(machine: str, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert this_machine() == platform


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        (AMD64, [ARM64, AMD64], AMD64),
        (AMD64, [ARM64], None),
        (AMD64, [Platform("linux", "amd64", "v2")], None),
        (Platform("linux", "amd64", "v3"), [AMD64, Platform("linux", "amd64", "v2")], Platform("linux", "amd64", "v2")),
        (Platform("linux", "amd64", "v3"), [AMD64], AMD64),
        (ARM["v7"], [ARM["v5"], ARM["v6"]], ARM["v6"]),
        (ARM["v6"], [ARM["v5"], ARM["v7"]], ARM["v5"]),
        (ARM["v6"], [ARM["v7"]], None),
        (ARM["v8"], [ARM["v7"]], ARM["v7"]),
        (ARM64, [ARM["v7"]], None),
        (AMD64, [Platform("windows", "amd64")], None),
    ],
)
def test_what_a_client_takes(wanted: Platform, offered: list[Platform], expected: Platform | None) -> None:
    assert chosen(wanted, offered) == expected
