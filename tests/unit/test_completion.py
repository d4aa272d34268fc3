"""`mirrortap completion`: what it prints has a real shell complete commands and options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from addon.cli import main

# What bash does at the tab key, with the words of a line that end where the cursor is.
_TAB = """
source {script}
COMP_WORDS=({line} "")
[ "{partial}" = "" ] || COMP_WORDS[-1]="{partial}"
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
eval "$(complete -p mirrortap | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" mirrortap
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def printed(shell: str) -> str:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize(
    ("line", "partial", "offered"),
    [
        ("mirrortap", "ca", {"ca", "cache"}),
        ("mirrortap serve --mode", "", {"regular", "transparent", "socks5"}),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, partial: str, offered: set[str]) -> None:
    script = tmp_path / "completions" / "mirrortap"
    script.parent.mkdir()
    script.write_text(printed("bash"))
    folder = Path(sys.executable).parent
    told = subprocess.run(
        ["bash", "--norc", "-euc", _TAB.format(script=script, line=line, partial=partial)],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (set(told.stdout.split()), told.stderr) == (offered, "")


@pytest.mark.parametrize(("shell", "registered"), [("zsh", "#compdef mirrortap"), ("fish", "--command mirrortap")])
def test_the_other_shells_have_theirs(shell: str, registered: str) -> None:
    told = printed(shell)
    assert registered in told
    assert f"_MIRRORTAP_COMPLETE={shell}_complete" in told


def test_a_shell_that_is_not_known() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr
