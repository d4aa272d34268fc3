"""Starts a program as systemd would with some of a unit's restrictions, in the words of that unit:

    confined.py RESTRICTIONS PROGRAM [ARGUMENT]...

RESTRICTIONS is a JSON file: `calls`, the names of the system calls that it may use; `families`, those of the address
families of its sockets. It has no capabilities, also as root, gets none, and no memory that is both written and run.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path

# <linux/capability.h>, <linux/prctl.h>, <seccomp.h>
_CAPABILITY_VERSION_3 = 0x20080522
_NO_NEW_PRIVILEGES, _MEMORY_DENY_WRITE_EXECUTE = 38, 65
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQUAL = 4


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def main(restrictions: Path, *argv: str) -> None:
    told = json.loads(restrictions.read_bytes())
    _lose_capabilities()
    _prctl(_NO_NEW_PRIVILEGES)
    _prctl(_MEMORY_DENY_WRITE_EXECUTE)
    _filter(told["calls"], [getattr(socket, family) for family in told["families"]])
    os.execv(argv[0], argv)


def _lose_capabilities() -> None:
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _called(ctypes.CDLL(None, use_errno=True).capset(header, none))


def _prctl(option: int) -> None:
    _called(ctypes.CDLL(None, use_errno=True).prctl(option, 1, 0, 0, 0))


def _called(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _filter(calls: list[str], families: list[int]) -> None:
    """SystemCallFilter= with SystemCallErrorNumber=EPERM, and RestrictAddressFamilies=."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO | errno.EPERM))
    for call in calls:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        # Some are of other architectures.
        if number >= 0 and call != "socket":
            _checked(seccomp.seccomp_rule_add(context, _ALLOW, number, 0))
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        rule = _Comparison(0, _EQUAL, family, 0)
        _checked(seccomp.seccomp_rule_add_array(context, _ALLOW, number, 1, ctypes.byref(rule)))
    _checked(seccomp.seccomp_load(context))


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
