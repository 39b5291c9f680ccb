"""The cases that are measured."""

import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import grpc

from bench.load import Load, Result, go_load, h2load
from bench.world import DOMAIN, USER, World
from ratelimit_service._gen.envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    StreamCheckLimitRequest,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.transport.envoy.framing import frame
from ratelimit_service.transport.envoy.paths import BATCH, CHECK, SHOULD_RATE_LIMIT, STREAM

BATCH_SIZE: Final = 64
STREAM_LENGTH: Final = 1_000
"""Messages in one call of the stream; one call is in flight on each connection."""

_RESOURCE: Final = "orders.create"
_SEED: Final = 1


class Case(NamedTuple):
    """One case: a name, decisions in each call, and how to load a port with it.

    `keys` are loaded into the server's cache before, if there are too many for the warm-up.
    """

    name: str
    decisions: int
    run: Callable[[int, Load], Result]
    keys: Sequence[str] = ()

    def load_keys(self, port: int) -> None:
        """Peek once with each of the keys."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = RateLimitServiceStub(channel)
            for start in range(0, len(self.keys), BATCH_SIZE):
                peeks = [CheckLimitRequest(api_key=key, cost=0) for key in self.keys[start : start + BATCH_SIZE]]
                stub.BatchCheckLimit(BatchCheckLimitRequest(checks=peeks))


def empty() -> Case:
    """The empty handler: the cost of the transport alone."""
    return Case(
        "empty handler", 1, lambda port, load: h2load(port, CHECK, frame(_check("rlk").SerializeToString()), load)
    )


def unary(world: World) -> Case:
    """One key, one limit, always allowed: the reference for the others."""
    return _same("unary, 1 key", world.keys[0])


def described(world: World) -> Case:
    """The same key over Envoy's rate limit protocol, as one descriptor."""
    body = frame(request("api_key", world.keys[:1]).SerializeToString())
    return Case("ShouldRateLimit, 1 key", 1, lambda port, load: h2load(port, SHOULD_RATE_LIMIT, body, load))


def request(key: str, values: Sequence[str]) -> RateLimitRequest:
    """A request of Envoy's, with a descriptor for each of the values."""
    entries = (RateLimitDescriptor.Entry(key=key, value=value) for value in values)
    return RateLimitRequest(domain=DOMAIN, descriptors=[RateLimitDescriptor(entries=[entry]) for entry in entries])


def users(name: str, values: Sequence[str]) -> Case:
    """One request again and again, with a descriptor for each of these values, which rules decide."""
    body = frame(request(USER, values).SerializeToString())
    return Case(name, 1, lambda port, load: h2load(port, SHOULD_RATE_LIMIT, body, load))


def spread_requests(name: str, key: str, values: Sequence[str], path: Path) -> Case:
    """A request for each of these values, of one descriptor, in this order, from a file that is written to PATH."""
    path.write_bytes(b"".join(_with_length(request(key, [value])) for value in values))
    return Case(name, 1, lambda port, load: go_load(port, SHOULD_RATE_LIMIT, path, load))


def alone(world: World) -> Case:
    """One call at a time on one connection: the latency without a queue."""
    body = frame(_check(world.keys[0]).SerializeToString())
    return Case(
        "unary, one at a time", 1, lambda port, load: h2load(port, CHECK, body, load._replace(connections=1, streams=1))
    )


def spread(world: World, count: int, folder: Path) -> Case:
    """COUNT keys in random order, each with its own bucket."""
    bodies = folder / f"bodies-{count}"
    chosen = world.keys[:count]
    random.Random(_SEED).shuffle(chosen)  # noqa: S311 the same order in each run
    bodies.write_bytes(b"".join(_with_length(_check(key)) for key in chosen))
    return Case(f"unary, {count:,} keys", 1, lambda port, load: go_load(port, CHECK, bodies, load), chosen)


def on_one_key(world: World) -> list[Case]:
    """Other single keys: two limits, and a bucket that stays empty all day."""
    return [_same("unary, 2 limits", world.two_limits), _same("unary, denied", world.denied)]


def batched(world: World) -> Case:
    """Batches of 64 different keys."""
    checks = [_check(key) for key in world.keys[:BATCH_SIZE]]
    body = frame(BatchCheckLimitRequest(checks=checks).SerializeToString())
    return Case(
        f"batch of {BATCH_SIZE}", BATCH_SIZE, lambda port, load: h2load(port, BATCH, body, load._replace(streams=2))
    )


def streamed(world: World) -> Case:
    """Streams of a thousand checks of 64 different keys."""
    checks = (_check(world.keys[number % BATCH_SIZE]) for number in range(STREAM_LENGTH))
    body = b"".join(frame(StreamCheckLimitRequest(check=check).SerializeToString()) for check in checks)
    return Case("stream", STREAM_LENGTH, lambda port, load: h2load(port, STREAM, body, load._replace(streams=1)))


def compared(world: World) -> list[Case]:
    """The cases of a whole server that are compared with each other."""
    return [unary(world), described(world), batched(world), streamed(world)]


def others(world: World, folder: Path) -> list[Case]:
    """The other cases of a whole server. The last ones fill its cache with many keys."""
    return [
        alone(world),
        *on_one_key(world),
        *(spread(world, count, folder) for count in (1, 1_000, len(world.keys))),
    ]


def _same(name: str, api_key: str) -> Case:
    body = frame(_check(api_key).SerializeToString())
    return Case(name, 1, lambda port, load: h2load(port, CHECK, body, load))


def _check(api_key: str) -> CheckLimitRequest:
    return CheckLimitRequest(api_key=api_key, resource=_RESOURCE)


def _with_length(request: CheckLimitRequest | RateLimitRequest) -> bytes:
    message = request.SerializeToString()
    return struct.pack(">I", len(message)) + message
