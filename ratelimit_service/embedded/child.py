"""Start a program that ends when this process does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

# Runs in the child before the program replaces it. A parent-death signal outlives exec. It is sent when the *thread*
# that started the child ends, so start children from the main thread. 1 is PR_SET_PDEATHSIG; only Linux has it. The
# parent may have died already: then the child has been handed to another parent.
_BIND = """
import os, signal, sys
parent, signum, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signum)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(program[0], program)
"""


def start_child(program: Sequence[str], *, signum: int, log: BinaryIO, cwd: Path) -> subprocess.Popen[bytes]:
    """Start PROGRAM (an absolute path and its arguments), its output going to LOG, in a session of its own.

    Where the system can do it (Linux), the program gets SIGNUM when the thread that called this ends, however it ends.
    A session of its own keeps Ctrl-C away from it, so that a server can finish before its stores go.
    """
    return subprocess.Popen(  # noqa: S603  the program comes from a wheel
        [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), str(signum), *program],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )
