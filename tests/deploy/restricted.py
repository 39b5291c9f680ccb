"""Runs a program under what a unit restricts, where no systemd runs: `python restricted.py UNIT PROGRAM ARGUMENT`.

Of the unit's directives it does those in which a server could run into something: the file system is read-only but for
its own folder (ProtectSystem, RuntimeDirectory), /proc has processes only (ProcSubset, ProtectProc), there are no
capabilities (CapabilityBoundingSet), and system calls, families of sockets and memory that is both written and executed
are filtered (SystemCallFilter, RestrictAddressFamilies, MemoryDenyWriteExecute). Needs root and libseccomp.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE, _MS_SAFE = 0x4000, 0x40000, 0xE  # the last: nosuid, nodev, noexec
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_PR_CAPBSET_DROP, _LAST_CAPABILITY = 24, 40
_CAPABILITY_VERSION_3 = 0x20080522
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EQUAL, _MASKED_EQUAL = 4, 7
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000
_LAST_FAMILY = 45


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def directives(unit: Path) -> dict[str, list[str]]:
    """The lines of a unit, by their names."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


class Filter:
    """A filter of system calls. Those that were loaded before hold too."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))

    def add(self, action: int, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        """Do ACTION for the call NAME, if its arguments compare; calls that this kernel does not have are left out."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        array = (_Comparison * max(len(comparisons), 1))(*(_Comparison(*each) for each in comparisons))
        if number >= 0:
            self._library.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)

    def load(self) -> None:
        """Make it hold, for this process and all that it starts."""
        _check(self._library.seccomp_load(self._context), "seccomp_load")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def calls(names: Iterable[str]) -> set[str]:
    """The system calls of these names and groups, as systemd has them."""
    found: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, check=True, text=True
        )
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        found |= calls(line for line in lines if line and not line.startswith("#"))
    return found


def protect_files(folder: Path) -> None:
    """Make everything read-only but FOLDER, and have /proc show processes only."""
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    _check(_LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount private")
    _check(_LIBC.mount(b"proc", b"/proc", b"proc", _MS_SAFE, b"subset=pid,hidepid=invisible"), "mount proc")
    attributes: Any = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    _check(_LIBC.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, 32), "mount_setattr")
    _check(_LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_SAFE, b"mode=0700"), "mount tmpfs")


def drop_capabilities() -> None:
    """Be a user without any, who can get none."""
    for capability in range(_LAST_CAPABILITY + 1):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(_LIBC.capset(header, none), "capset")


def filter_calls(unit: dict[str, list[str]], allowed: set[str]) -> None:
    """Load the filters of UNIT, of which ALLOWED are the system calls."""
    arguments = Filter(_ALLOW)
    families = {int(getattr(socket, name)) for name in unit["RestrictAddressFamilies"][0].split()}
    for family in set(range(_LAST_FAMILY + 1)) - families:
        arguments.add(_ERRNO | errno.EAFNOSUPPORT, "socket", (0, _EQUAL, family, 0))
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        both = _PROT_WRITE | _PROT_EXEC
        arguments.add(_ERRNO | errno.EPERM, "mmap", (2, _MASKED_EQUAL, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            arguments.add(_ERRNO | errno.EPERM, name, (2, _MASKED_EQUAL, _PROT_EXEC, _PROT_EXEC))
        arguments.add(_ERRNO | errno.EPERM, "shmat", (2, _MASKED_EQUAL, _SHM_EXEC, _SHM_EXEC))
    arguments.load()
    listed = Filter(_ERRNO | errno.EPERM)
    for name in allowed:
        listed.add(_ALLOW, name)
    listed.load()


def main() -> None:
    """Restrict this process, and become the program."""
    unit = directives(Path(sys.argv[1]))
    allowed: set[str] = set()
    for line in unit["SystemCallFilter"]:
        if line.startswith("~"):
            allowed -= calls(line[1:].split())
        else:
            allowed |= calls(line.split())
    protect_files(Path(os.environ["TMPDIR"]))
    drop_capabilities()
    filter_calls(unit, allowed)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
