"""What each step comes to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed", "skipped"]
Code = Literal[
    "another-proxy",
    "ca-broken",
    "ca-ends",
    "ca-file",
    "cache-unwritable",
    "clock",
    "configuration",
    "damaged",
    "denied",
    "disk-full",
    "disk-low",
    "dns",
    "endpoint",
    "intercepted",
    "leaf-expired",
    "login",
    "loopback",
    "mirror-down",
    "no-ca",
    "no-certificate",
    "no-variable",
    "not-restarted",
    "not-seen",
    "not-the-daemon",
    "not-through",
    "nothing-listens",
    "offline",
    "password",
    "past-the-proxy",
    "port-taken",
    "proxy-login",
    "proxy-url",
    "quota",
    "refused",
    "registry",
    "tunnelled",
    "turned-away",
    "two-spellings",
    "unknown-image",
    "unreachable",
    "wrong-ca",
    "wrong-name",
]
"""What is wrong, for programs: they stay the same. docs/doctor.md has them all."""


@dataclass(frozen=True)
class Finding:
    """`what` was found at a step. With a warning or a failure come a `code` and a `remedy`: sentences, and lines that
    begin with two spaces, which are commands or settings to copy."""

    step: str
    verdict: Verdict
    what: str
    code: Code | None = None
    remedy: str = ""


def ok(step: str, what: str) -> Finding:
    return Finding(step, "ok", what)


def skipped(step: str, what: str) -> Finding:
    return Finding(step, "skipped", what)


def warning(step: str, code: Code, what: str, remedy: str) -> Finding:
    """Pulls go on, or may."""
    return Finding(step, "warning", what, code, remedy)


def failed(step: str, code: Code, what: str, remedy: str) -> Finding:
    return Finding(step, "failed", what, code, remedy)
