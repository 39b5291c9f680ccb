"""The metrics of a whole server, served by its operations process."""

import re
import struct
import time
import urllib.request
from collections.abc import Callable

import grpc
import pytest
import redis

from fixtures.served import Server, free_address
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs


def total(server: Server, metric: str) -> float:
    """The sum of a metric's samples with matching labels."""
    url = f"http://{server.settings.operations_listen}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        text = response.read().decode()
    return sum(float(value) for value in re.findall(rf"^{metric} (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_all_processes_are_summed_up(own_server: Callable[..., Server], transport: str) -> None:
    """Decisions of all workers and calls to the control plane are added up; a worker that dies stays counted."""
    server = own_server(transport, workers=2, operations_listen=free_address())
    _, api_key = server.key("wide")
    for _ in range(20):
        with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            grpc_stubs.RateLimitServiceStub(channel).CheckLimit(pb2.CheckLimitRequest(api_key=api_key))
    decisions = r'ratelimit_decisions_total\{reason="WITHIN_LIMIT",source="STORE"\}'
    calls = r'ratelimit_calls_total\{code="OK",method="/ratelimit.v1.KeyAdminService/ManageKey"\}'
    deadline = time.monotonic() + 5
    while (total(server, decisions), total(server, calls)) != (20, 1):
        assert time.monotonic() < deadline, (total(server, decisions), total(server, calls))
        time.sleep(0.1)
    server.workers()[0].kill()
    server.wait_for_output("starting another")
    assert total(server, decisions) == 20


def test_the_flush_of_usage_is_measured(own_server: Callable[..., Server], valkey_url: str) -> None:
    """Once the minute of some calls is over, the metrics have their rows and segment, and neither backlog nor loss."""
    url = valkey_url.rsplit("/", 1)[0] + "/13"  # where no other test counts
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    server = own_server("grpcio", operations_listen=free_address(), redis_url=url)
    _, api_key = server.key("wide")
    with grpc.insecure_channel(server.address) as channel:
        for _ in range(3):
            grpc_stubs.RateLimitServiceStub(channel).CheckLimit(pb2.CheckLimitRequest(api_key=api_key))
    end_minute(url)
    deadline = time.monotonic() + 20
    while total(server, "ratelimit_usage_segments_flushed_total") < 1:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.1)
    assert total(server, "ratelimit_usage_rows_flushed_total") >= 1
    assert total(server, "ratelimit_usage_leader") == 1
    assert total(server, "ratelimit_usage_flush_seconds_total") > 0
    for name in ("lost_calls_total", "unreadable_total", "backlog_segments", "backlog_bytes", "store_lost_calls"):
        assert total(server, f"ratelimit_usage_{name}") == 0, name
    assert total(server, "ratelimit_usage_lag_seconds") < 60


def end_minute(url: str) -> None:
    """Freeze the open segment now, as the store does once its minute is over; unless it just did."""
    with redis.Redis.from_url(url) as client:
        packed = client.hget("{u}:u:o", "")
        if packed is None:
            return
        seq, created_us, *_ = struct.unpack("<9d", packed)
        name = f"{seq:.0f}.{created_us:.0f}"
        with client.pipeline() as pipeline:
            pipeline.rename("{u}:u:o", f"{{u}}:u:s:{name}")
            pipeline.rpush("{u}:u:q", name)
            pipeline.execute()
