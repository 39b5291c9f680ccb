# ruff: noqa: INP001, S603  beside a script, which starts it
"""The server of these benchmarks, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_server() -> Iterator[str]:
    """The address of `server.py`, which ends with its standard input: at the end of the block."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        if server.stdout is None:
            raise RuntimeError("the server has no pipes")
        yield f"127.0.0.1:{int(server.stdout.readline())}"
