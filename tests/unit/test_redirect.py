"""scripts/redirect: what it prints and takes. What its rules do is shown by the tests of the modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.processes import clean_env, run
from support.proxy import ROOT

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def redirect(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run([ROOT / "scripts" / "redirect", *options], env=clean_env(home), check=False)


def rules(home: Path, *options: str) -> list[str]:
    printed = redirect(home, *options)
    assert (printed.returncode, printed.stderr) == (0, "")
    return [line.strip() for line in printed.stdout.splitlines()]


def test_a_gateways_rules(tmp_path: Path) -> None:
    printed = rules(tmp_path, "gateway")
    assert printed[:3] == [
        "table inet mirrortap_gateway",
        "delete table inet mirrortap_gateway",
        "table inet mirrortap_gateway {",
    ]
    assert printed[4:7] == [
        "type nat hook prerouting priority -100; policy accept;",
        "fib daddr type local return",
        "tcp dport { 443, 80 } redirect to :3128",
    ]
    printed = rules(tmp_path, "gateway", "--from", "eth0", "--from", "br-1", "--ports", "443", "--to", "8080")
    assert printed[5:8] == [
        'iifname != { "eth0", "br-1" } return',
        "fib daddr type local return",
        "tcp dport { 443 } redirect to :8080",
    ]


def test_a_machines_rules(tmp_path: Path) -> None:
    printed = rules(tmp_path, "machine", "--user", "root")
    assert printed[4:6] == ["type nat hook output priority -100; policy accept;", "meta skuid 0 return"]
    assert "meta skuid 4711 return" in rules(tmp_path, "machine", "--user", "4711")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "say gateway or machine"),
        (["both"], "say gateway or machine"),
        (["machine"], "machine wants --user"),
        (["machine", "--user", "no-such-user"], "there is no user no-such-user"),
        (["machine", "--user", "-n"], "there is no user -n"),
        (["machine", "--user", "root", "--from", "eth0"], "--from is for gateway"),
        (["gateway", "--user", "root"], "--user is for machine"),
        (["gateway", "--to", "0"], "'0' is not a port"),
        (["gateway", "--to", "65536"], "'65536' is not a port"),
        (["gateway", "--ports", ""], "--ports wants ports"),
        (["gateway", "--ports", "443;80"], "'443;80' is not a port"),
        (["gateway", "--from", 'eth0"; drop'], "is not the name of an interface"),
        (["gateway", "--from"], "--from wants a value"),
        (["gateway", "--aply"], "--aply is no option"),
    ],
)
def test_what_it_does_not_take(tmp_path: Path, options: list[str], why: str) -> None:
    said = redirect(tmp_path, *options)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("scripts/redirect: ")
    assert why in said.stderr
