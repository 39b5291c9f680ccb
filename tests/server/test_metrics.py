"""The metrics of a whole server, served by its operations process."""

import re
import time
import urllib.request
from collections.abc import Callable

import grpc
import pytest

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
