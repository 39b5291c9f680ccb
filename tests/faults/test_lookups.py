"""A worker cannot read Postgres: callers learn no more than that, operators why."""

import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from faults.proxy import FaultProxy
from fixtures.served import Server, free_address
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs

NOBODY = 1
"""A port that nobody listens on."""


@pytest.fixture
def away() -> Iterator[FaultProxy]:
    """What stands between a server and Postgres."""
    with FaultProxy(NOBODY) as proxy:
        yield proxy


def test_a_stranger_learns_nothing_of_postgres(
    own_server: Callable[..., Server], migrated_database_url: Callable[[], str], away: FaultProxy
) -> None:
    """Unknown keys and tokens get UNAVAILABLE without an address. The log has it, and /readyz says what is the case."""
    head, _, name = migrated_database_url().rpartition("/")
    away.target_port = int(head.rpartition(":")[2])
    url = f"{head.rpartition(':')[0]}:{away.port}/{name}"
    server = own_server("envoy", operations_listen=free_address(), database_url=url)
    _, known = server.key("wide")
    _, unknown = server.key("wide")
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    assert stub.CheckLimit(pb2.CheckLimitRequest(api_key=known)).allowed
    away.target_port = NOBODY
    away.reset()
    errors = []
    for request, metadata in (
        (pb2.CheckLimitRequest(api_key=unknown), ()),
        (pb2.CheckLimitRequest(api_key=known), (("authorization", "Bearer rlt_000000000000_" + "0" * 32),)),
        (pb2.CheckLimitRequest(api_key=known), (("authorization", f"Bearer {made_up(server)}"),)),
    ):
        try:
            stub.CheckLimit(request, metadata=metadata, timeout=5)
        except grpc.RpcError as error:
            errors.append((error.code().name, error.details()))
    assert ("UNAVAILABLE", "Postgres is unavailable, and this key is not in memory; try again") in errors
    assert len(errors) == 3
    for _, details in errors:
        assert str(away.port) not in details, errors
        assert "127.0.0.1" not in details, errors
    deadline = time.monotonic() + 20
    while "keys that are not in memory" not in (shown := ask(server.settings.operations_listen, "/readyz").text):
        assert time.monotonic() < deadline, shown
        with pytest.raises(grpc.RpcError):
            stub.CheckLimit(pb2.CheckLimitRequest(api_key=unknown), timeout=5)
    server.wait_for_output(f"port {away.port} failed")
    assert stub.CheckLimit(pb2.CheckLimitRequest(api_key=known)).allowed


def made_up(server: Server) -> str:
    """A token in the right form that nobody has."""
    token = next(iter(server.tokens.values()))
    head, identity, rest = token.split("_", 2)
    return f"{head}_{identity[::-1]}_{rest}"
