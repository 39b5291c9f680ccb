"""Cookies of sessions that are not in memory: what is read, and who waits for it."""

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping

import pytest

from fixtures.control_plane import ManualClock
from ratelimit_service.console.security.session_lookups import MAX_WAITING, READS_PER_SECOND
from ratelimit_service.console.security.sessions import SessionReader
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.sessions import Session
from ratelimit_service.management.tokens import Caller, Role


class Source:
    """Sessions by their values, whose reads are counted."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.reads = 0
        self.away = False

    def open(self) -> str:
        """Open a session, and return its value."""
        value = made_up()
        self.sessions[value] = Session(Caller("ada", Role.VIEWER), "token", 0, 2**62)
        return value

    async def get(self, value: str) -> Session | None:
        """Read one."""
        return (await self.find([value])).get(value)

    async def find(self, values: Collection[str]) -> Mapping[str, Session]:
        """Read some."""
        self.reads += 1
        await asyncio.sleep(0.005)
        if self.away:
            raise Unavailable("Postgres is away", reason="POLICY_STORE_UNAVAILABLE")
        return {value: self.sessions[value] for value in values if value in self.sessions}


def made_up() -> str:
    """A value of the right form."""
    return secrets.token_urlsafe(32)


async def test_any_number_of_made_up_cookies_share_reads() -> None:
    """Thousands in a second cost ten reads, and a session that is not in memory is found among them."""
    source = Source()
    reader = SessionReader(source, ManualClock())
    real = source.open()
    began = time.monotonic()
    requests = []
    for number in range(100):
        requests += [asyncio.create_task(reader.get(made_up())) for _ in range(30)]
        if number == 50:
            found = asyncio.create_task(reader.get(real))
        await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert source.reads <= (time.monotonic() - began) * READS_PER_SECOND + 2
    assert set(outcomes) == {None}
    assert await found is not None


async def test_waiting_is_bounded() -> None:
    """Beyond MAX_WAITING a request is refused, to be repeated; sessions in memory are not concerned."""
    source = Source()
    reader = SessionReader(source, ManualClock())
    real = source.open()
    assert await reader.get(real) is not None
    requests = [asyncio.create_task(reader.get(made_up())) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await reader.get(made_up())
    assert await reader.get(real) is not None
    assert set(await asyncio.gather(*requests)) == {None}


async def test_a_made_up_cookie_is_remembered_and_another_form_never_read() -> None:
    """One that is sent again is looked up once, one of another form not at all."""
    source = Source()
    reader = SessionReader(source, ManualClock())
    value = made_up()
    for _ in range(5):
        assert await reader.get(value) is None
    assert source.reads == 1
    for other in ("", "x", value[:-1], value + "x", value[:-1] + ".", "\udcff" * 43):
        assert await reader.get(other) is None
    assert source.reads == 1


async def test_an_outage_is_reported_and_not_remembered() -> None:
    """A session that cannot be looked up is found as soon as it can; one that was open stays open meanwhile."""
    source = Source()
    now = [0.0]
    reader = SessionReader(source, ManualClock(), lambda: now[0])
    known, unknown = source.open(), source.open()
    assert await reader.get(known) is not None
    source.away = True
    now[0] += 10
    assert await reader.get(known) is not None
    with pytest.raises(Unavailable):
        await reader.get(unknown)
    source.away = False
    assert await reader.get(unknown) is not None


async def test_a_new_session_needs_no_lookup() -> None:
    """The first page after signing in is shown whatever others send, until the session is closed."""
    source = Source()
    reader = SessionReader(source, ManualClock())
    value = source.open()
    reader.opened(value, source.sessions[value])
    assert await reader.get(value) is not None
    assert source.reads == 0
    reader.close(value)
    assert await reader.get(value) is None
