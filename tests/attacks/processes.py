"""Processes forked from one that has imported what they need: each is there at once, and its imports cost nothing."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")


def fork(function: Callable[..., Any], *arguments: object) -> tuple[ForkServerProcess, Connection]:
    """Run `function(pipe, *arguments)` in a process of its own. Returns it, and the other end of the pipe."""
    _start_fork_server()
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=function, args=(theirs, *arguments))
    process.start()
    theirs.close()
    return process, ours


def end(process: ForkServerProcess, pipe: Connection) -> None:
    """Wait for it, and end it if it does not."""
    pipe.close()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _start_fork_server() -> None:
    """Start the process that the others are forked from, unless it runs."""
    before = os.environ.get("PYTHONPATH")
    tests = Path(__file__).parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent)])
    try:
        forkserver.set_forkserver_preload(["attacks.attacked", "grpc.aio", "pytest"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
