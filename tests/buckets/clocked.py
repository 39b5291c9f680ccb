"""A store with a clock that the test sets."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import redis

from ratelimit_service.buckets.redis.connect import USAGE_BYTES, open_unguarded_store
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.redis.script import Script, charge_scripts
from ratelimit_service.decision.charge import Charge, ChargeResult

TIMEOUT = 5.0
"""Generous: the machine that runs the tests may be busy."""


def clock_part(key: str) -> str:
    """Lua that takes the value of KEY, in microseconds since 1970, as the time."""
    return f"local now = tonumber(redis.call('GET', '{key}'))"


def clocked_scripts(key: str) -> tuple[Script, ...]:
    """The charge scripts, with the value of KEY, in microseconds since 1970, as their time."""
    return charge_scripts(clock=clock_part(key))


class ClockedStore:
    """A store and its clock, on a loop of their own, for tests that are not coroutines."""

    def __init__(
        self,
        url: str,
        key: str = "clock",
        request_window: float = 3600,
        usage_bytes: int = USAGE_BYTES,
        client: redis.Redis | None = None,
        *,
        room: Room = Room.PLENTY,
    ) -> None:
        """CLIENT is one of the node that has KEY, if that is not at URL. ROOM is what it counts as having."""
        self._room = room
        self._key = key
        self._usage_bytes = usage_bytes
        self.client = client or redis.Redis.from_url(url)
        self._runner = asyncio.Runner()
        self._store = self._runner.run(self._open(url, request_window))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._store.close())
        self._runner.close()
        self.client.close()

    def scripts(self) -> tuple[Script, ...]:
        """The only script that it charges with."""
        return (clocked_scripts(self._key)[self._room],)

    def charge(self, charges: Sequence[Charge], now_us: int) -> list[ChargeResult]:
        """Charge at this time."""
        self.client.set(self._key, now_us)
        return list(self._runner.run(self._charge(charges)))

    async def _open(self, url: str, request_window: float):  # noqa: ANN202
        return open_unguarded_store(
            url,
            timeout=TIMEOUT,
            request_window=request_window,
            usage_bytes=self._usage_bytes,
            scripts=self.scripts(),
        )

    async def _charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        return await self._store.charge(charges)
