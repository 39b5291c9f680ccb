"""Running servers for the tests of this folder."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest

from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.settings import Settings
from transport.grpcio.running import RunningServer, open_server

MakeSettings = Callable[..., Settings]

_numbers = count(1)

FREE = {
    "name": "free",
    "limits": [
        {"name": "burst", "token_bucket": {"capacity": 20, "refill_tokens": 10, "refill_period": {"seconds": 1}}},
        {"name": "daily", "quota": {"amount": 10_000, "window": "DAY"}},
    ],
}


@pytest.fixture(scope="session")
def make_settings(valkey_url: str, migrated_database_url: Callable[[], str]) -> MakeSettings:
    """Return a function that gives settings on a migrated database of their own, with what is passed in place."""

    def make(**changes: object) -> Settings:
        if "database_url" not in changes:
            changes["database_url"] = migrated_database_url()
        valid = {"redis_url": valkey_url, "peppers": Peppers.generate(), "listen": "127.0.0.1:0"}
        return Settings(**{**valid, "protect_checks": False, **changes})  # as a server decides it for loopback

    return make


@pytest.fixture(scope="session")
async def running(make_settings: MakeSettings) -> AsyncIterator[RunningServer]:
    """One server for all tests that leave it as it is, with plan `free`."""
    settings = await asyncio.to_thread(make_settings)
    async with open_server(settings) as running:
        await running.plan("create", plan=FREE)
        yield running


@pytest.fixture
async def api_key(running: RunningServer) -> str:
    """A fresh key of a subject of its own on plan `free`."""
    made = await running.key("create", plan="free", subject=f"subject-{next(_numbers)}")
    return str(made.create.secret)
