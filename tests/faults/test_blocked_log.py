"""Nobody reads the log: its pipe is full."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from fixtures.served import launch, make_settings, seed
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from ratelimit_service.log_writer import LogWriter

_CALLS = 320
"""Each is logged by a line, and a pipe takes some 240 of them."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_log_that_nobody_reads_stops_nobody(
    valkey_url: str, migrated_database_url: Callable[[], str], tmp_path: Path, transport: str
) -> None:
    """Administration, decisions and the supervisor go on, and what fits is written once somebody reads again."""
    settings = make_settings(migrated_database_url(), valkey_url, transport)
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    server = launch(settings, asyncio.run(seed(settings)), fifo)
    try:
        read_until(reader, b"ratelimit-service serves on")
        workers = [process.pid for process in server.workers()]
        request = admin_pb2.ListAuditEventsRequest(page_size=1)
        for _ in range(_CALLS):
            server.manage().ListAuditEvents(request, metadata=server.as_admin, timeout=5)
        with pytest.raises(grpc.RpcError):  # a supervisor that waits would take it for hanging, and end it
            server.manage().ListAuditEvents(request, timeout=5)
        time.sleep(3)
        assert [process.pid for process in server.workers()] == workers
        stub = grpc_stubs.RateLimitServiceStub(server.channel)
        assert stub.CheckLimit(pb2.CheckLimitRequest(api_key="unknown"), timeout=5).reason
        lines = read_until(reader, b"UNAUTHENTICATED")
        assert lines.count(b"ListAuditEvents") == _CALLS + 1
    finally:
        server.process.kill()
        server.process.wait()
        os.close(reader)


def read_until(reader: int, text: bytes) -> bytes:
    """What was written, once TEXT is in it."""
    deadline, written = time.monotonic() + 120, b""
    while text not in written:
        assert time.monotonic() < deadline, written[-2_000:]
        try:
            written += os.read(reader, 2**16)
        except BlockingIOError:
            time.sleep(0.02)
    return written


def test_lines_that_found_no_place_are_counted() -> None:
    """What waits is bounded. Once somebody reads again, a line says how many were dropped."""
    read, write = os.pipe()
    writer = LogWriter(write, max_bytes=200_000)
    for number in range(1_000):
        writer.emit(logging.makeLogRecord({"msg": f"{number:999}"}))
    began = time.monotonic()
    writer.flush()
    assert time.monotonic() - began < 5
    os.set_blocking(read, False)
    written = read_until(read, b"lines of the log were dropped")
    found = re.search(rb"(\d+) lines of the log were dropped", written)
    assert found
    kept = 1_000 - int(found[1])
    assert 199 <= kept <= 400
    while written.count(b"\n") < kept + 1:  # what waited behind the lines that were taken first
        written += read_until(read, b"\n")
