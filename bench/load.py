"""A load and its result, and h2load, which makes it: nghttp2's load generator, in Debian's package nghttp2-client."""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def whole_seconds(text: str) -> float:
    """A number of seconds as h2load takes it. Raises ArgumentTypeError for a fraction, or less than 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds, 1 or more: h2load takes no other")
    return float(text)


class Load(NamedTuple):
    """STREAMS calls in flight on each of CONNECTIONS, for `warm_up` seconds that do not count and SECONDS that do.

    If CALLS is not 0, that many calls are made instead, however long it takes, and all of them count.
    """

    connections: int = 8
    streams: int = 16
    seconds: float = 5.0
    warm_up: float = 1.0
    calls: int = 0


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


def h2load_get(port: int, headers: Mapping[str, str], load: Load) -> Result:
    """Request the same page again and again."""
    return _load(f"http://127.0.0.1:{port}/", [], headers, load)


def _load(url: str, arguments: Sequence[str], headers: Mapping[str, str], load: Load) -> Result:
    program = shutil.which("h2load")
    if program is None:
        raise SystemExit("h2load is missing: install Debian's package nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [
            *(program, "--clients", str(load.connections), "--max-concurrent-streams", str(load.streams)),
            *("--threads", "1", "--log-file", str(log), *arguments),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            *(
                ("--requests", str(load.calls))
                if load.calls
                else ("--duration", f"{load.seconds:g}", "--warm-up-time", f"{load.warm_up:g}")
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
