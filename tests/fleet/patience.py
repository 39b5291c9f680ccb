"""Calls of servers that are made again while the machine is too busy."""

import time
from collections.abc import Callable
from typing import TypeVar

import grpc

SECONDS = 30.0
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Result = TypeVar("Result")


def patiently(call: Callable[[], Result]) -> Result:
    """What CALL returns, once the server can."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in PASSING or time.monotonic() > until:
                raise
            time.sleep(0.2)
