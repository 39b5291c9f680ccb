"""Applications of tests behind an Envoy of their own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.target import await_port, embedded, free_port, running


@contextmanager
def embedded_app(module: str, folder: Path) -> Iterator[str]:
    """The address of an Envoy with the `app` of this MODULE beside here, which lives until the end."""
    port = free_port()
    command = [sys.executable, "-m", *embedded(f"transport.envoy.{module}:app", port, folder)]
    tests = str(Path(__file__).parents[2])
    with running(command, os.environ | {"PYTHONPATH": tests}) as process:
        await_port(port, process)
        yield f"127.0.0.1:{port}"
        assert process.poll() is None
