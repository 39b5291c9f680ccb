"""A load and its result, and the two generators that make it.

h2load, nghttp2's, in Debian's package nghttp2-client, sends one body again and again. `go/load` sends different ones,
as many as are answered, or so many a second whether or not they are answered.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.go_programs import own_program

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def whole_seconds(text: str) -> float:
    """A number of seconds as h2load takes it. Raises ArgumentTypeError for a fraction, or less than 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds, 1 or more: h2load takes no other")
    return float(text)


class Load(NamedTuple):
    """STREAMS calls in flight on each of CONNECTIONS, for `warm_up` seconds that do not count and SECONDS that do.

    If CALLS is not 0, that many calls are made instead, however long it takes, and all of them count. If RATE is not 0,
    so many calls start in a second, on all connections together, however many are in flight: an open loop.
    """

    connections: int = 8
    streams: int = 16
    seconds: float = 5.0
    warm_up: float = 1.0
    calls: int = 0
    rate: float = 0.0


class Result(NamedTuple):
    """Calls answered and failed, in how many seconds, and the median and 99th percentile of their latency."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float


def h2load(port: int, path: str, body: bytes, load: Load) -> Result:
    """Send BODY (gRPC messages with their prefixes) to PATH again and again."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "body")
        data.write_bytes(body)
        headers = {"content-type": "application/grpc", "te": "trailers"}
        return _load(f"http://127.0.0.1:{port}{path}", ["--data", str(data)], headers, load)


def go_load(port: int, path: str, bodies: Path, load: Load) -> Result:
    """Send the messages of a file in turn to PATH. Each is after its length in 4 bytes, big endian.

    In an open loop the latency of a call counts from when it was to start, so that those that wait for a generator
    which waits for the server are not left out (coordinated omission).
    """
    arguments = {
        "port": port,
        "path": path,
        "bodies": bodies,
        "connections": load.connections,
        "streams": load.streams,
        "rate": load.rate,
        "seconds": load.seconds,
        "warm-up": load.warm_up,
    }
    command = [str(own_program("load")), *(f"-{name}={value}" for name, value in arguments.items())]
    return Result(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def h2load_get(port: int, headers: Mapping[str, str], load: Load) -> Result:
    """Request the same page again and again."""
    return _load(f"http://127.0.0.1:{port}/", [], headers, load)


def find_h2load() -> str:
    """Where h2load is. Raises SystemExit if it is missing."""
    program = shutil.which("h2load")
    if program is None:
        raise SystemExit("h2load is missing: install Debian's package nghttp2-client")
    return program


def _load(url: str, arguments: Sequence[str], headers: Mapping[str, str], load: Load) -> Result:
    program = find_h2load()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [
            *(program, "--clients", str(load.connections), "--max-concurrent-streams", str(load.streams)),
            *("--threads", "1", "--log-file", str(log), *arguments),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            *(
                ("--requests", str(load.calls))
                if load.calls
                else ("--duration", f"{load.seconds:g}", "--warm-up-time", f"{load.warm_up * 1e3:.0f}ms")
            ),
            url,
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return _read(output, log.read_text() if log.exists() else "")


def _read(output: str, log: str) -> Result:
    finished = re.search(r"finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s", output)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    if not finished or not counts:
        raise SystemExit(f"the output of h2load cannot be parsed:\n{output}")
    answered = int(counts[1])
    rate = float(finished[3])
    latencies = sorted(int(line.split("\t")[2]) for line in log.splitlines())  # start, status, microseconds
    latencies = latencies or [0]
    return Result(
        answered=answered,
        failed=int(counts[2]) + int(counts[3]) + int(counts[4]),
        seconds=answered / rate if rate else float(finished[1]) * _UNITS[finished[2]] / 1e3,
        p50_ms=latencies[len(latencies) // 2] / 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] / 1e3,
    )
