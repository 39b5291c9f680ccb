"""What is wrong with a store, as whoever is on call reads it."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from fixtures.served import free_address
from ratelimit_service.decision.ports import SlowStore, StoreUnavailable
from ratelimit_service.operations.readiness import Readiness
from ratelimit_service.server.store_faults import Address, Way, address_of, describe_fault, way_to
from ratelimit_service.settings import Settings

SILENCE = StoreUnavailable("Redis at 10.0.0.1:6379 did not reply within 0.3 s")


@pytest.fixture
def accepting() -> Iterator[Address]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())


async def test_the_way_to_a_store(accepting: Address) -> None:
    """One that accepts connections hangs or fails; others refuse them, are not found, or are not known."""
    assert await way_to(accepting, SILENCE) is Way.HANGING
    assert await way_to(accepting, TimeoutError()) is Way.HANGING
    assert await way_to(accepting, StoreUnavailable("Redis rejected the charge script: NOAUTH")) is Way.FAILING
    host, _, port = free_address().rpartition(":")
    assert await way_to(Address(host, int(port)), SILENCE) is Way.REFUSED
    assert await way_to(Address("redis.invalid", 6379), SILENCE) is Way.UNNAMED
    assert await way_to(None, SILENCE) is Way.UNKNOWN


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://somebody:s3cret@cache:6380/0", ("cache", 6380)),
        ("rediss://cache", ("cache", 6379)),
        ("redis+sentinel://:s3cret@one,two:26380/limits", ("one", 26379)),
        ("redis+cluster://[::1]:7000,two:7001", ("::1", 7000)),
        ("postgresql://ratelimit:p%40ss@db/limits?sslmode=require", ("db", 5432)),
        ("postgresql:///limits?host=/run/postgresql", None),
        ("unix:///run/redis.sock", None),
        ("redis://cache:port", None),
        ("", None),
    ],
)
def test_the_address_in_a_url(url: str, address: tuple[str, int] | None) -> None:
    """It is that of the first host, with the usual port if the URL has none."""
    assert address_of(url) == address


async def test_a_slow_store_is_not_one_that_is_silent(accepting: Address) -> None:
    """Whoever asks reads what is wrong with each component, and no address."""
    settings = Settings(redis_url=SecretStr(f"redis://{accepting.host}:{accepting.port}"))

    async def describe(component: str, error: Exception) -> str:
        return await describe_fault(settings, component, error)

    readiness = Readiness(lambda: [{"store": "the breaker is open"}, {}], 2, describe=describe)

    async def slow() -> None:
        raise SlowStore("answers in 52 ms, slower than RATELIMIT_STORE_SLOW (20 ms)")

    async def hanging() -> None:
        await asyncio.sleep(5)

    await readiness.probe({"redis": slow})
    assert readiness.report().text == (
        "degraded: redis answers in 52 ms, slower than RATELIMIT_STORE_SLOW (20 ms), calls are decided by "
        "on_store_failure; the breaker is open (1 of 2 workers; one without calls does not notice)"
    )
    await readiness.probe({"redis": hanging})
    assert readiness.faults() == {"redis": "does not answer, though connections are accepted"}
