"""Callers with a token who want too much: messages that are as large, and as full of nothing, as they may be."""

import time
from collections import Counter
from typing import Final

import grpc

from attacks.attacked import Target, attacked
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1.simulation_pb2 import SimulatePlanRequest
from ratelimit_service.api.messages import MAX_ADMIN_MESSAGE
from ratelimit_service.management.tokens import Role

SIMULATE: Final = "/ratelimit.v1.KeyAdminService/SimulatePlan"
EMPTY_LIMITS: Final = b"\x12\x00" * (MAX_ADMIN_MESSAGE // 2)
MEMORY_MB: Final = 120.0
"""By which memory may grow: a few such messages at a time, and not what each call before has left."""

MIN_CALLS: Final = 10 if FULL else 2


def simulate(address: str, until: float, token: str, pause: float = 0.0) -> Counter[str]:
    """Simulate a plan with half a million limits that are empty, again and again."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(SIMULATE)
        while time.monotonic() < until:
            try:
                method(EMPTY_LIMITS, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
            except grpc.RpcError as error:
                found[error.code().name] += 1
            time.sleep(pause)
    return found


def test_a_gateway_sends_large_messages(target: Target) -> None:
    """They are refused for the caller's role, unread, and nothing of a refused call stays."""
    assert len(SimulatePlanRequest.FromString(EMPTY_LIMITS).limits) == MAX_ADMIN_MESSAGE // 2
    with attacked(target, "large messages of a gateway") as report:
        report.memory_mb = min(report.memory_mb, MEMORY_MB)
        found = report.attack(simulate, target.server.tokens[Role.GATEWAY], 0.02)
    assert set(found) == {"PERMISSION_DENIED"}
    assert found["PERMISSION_DENIED"] > MIN_CALLS


def test_a_viewer_sends_large_messages(target: Target) -> None:
    """They are refused for their size, unread, as only admins have a use for them."""
    with attacked(target, "large messages of a viewer") as report:
        report.memory_mb = min(report.memory_mb, MEMORY_MB)
        found = report.attack(simulate, target.server.tokens[Role.VIEWER], 0.05)
    assert set(found) == {"RESOURCE_EXHAUSTED"}
    assert found["RESOURCE_EXHAUSTED"] > MIN_CALLS


def test_an_admin_sends_large_messages(target: Target) -> None:
    """Even theirs are refused by the number of their fields, before an item is read."""
    with attacked(target, "large messages of an admin") as report:
        found = report.attack(simulate, target.server.tokens[Role.ADMIN], min(1.0, ATTACK_SECONDS / 4), connections=1)
    assert set(found) == {"INVALID_ARGUMENT"}
    assert found["INVALID_ARGUMENT"] > (1 if FULL else 0)
