"""Clients of the server, which request decisions while a person has the console open."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub


def call(server: Server, api_key: str, cost: int = 1) -> CheckLimitResponse:
    """Request one decision."""
    return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key, cost=cost), timeout=10)


@contextmanager
def calling(server: Server, api_key: str, per_second: float) -> Iterator[None]:
    """Request decisions at this rate in the background."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(1 / per_second):
            call(server, api_key)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
