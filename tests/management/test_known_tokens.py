"""The valid tokens in memory: what is read, and who waits for it."""

import asyncio
import time
from contextlib import suppress

import psycopg
import pytest

from api.tokens import Source, Time
from ratelimit_service.errors import LookupDeferred, Unavailable
from ratelimit_service.management.known_tokens import MAX_WAITING, READS_PER_SECOND, TOKEN_TTL, KnownTokens
from ratelimit_service.management.tokens import Token


async def test_any_number_of_unknown_tokens_share_reads() -> None:
    """Ten thousand made-up tokens in a second cost READS_PER_SECOND reads, and a new one is found among them."""
    source = Source()
    tokens = KnownTokens(source)
    began = time.monotonic()
    calls = []
    for number in range(100):
        calls += [asyncio.create_task(tokens.find(Token.generate().token_id)) for _ in range(100)]
        if number == 50:
            new = source.make()
            found = asyncio.create_task(tokens.find(new.token_id))
        await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    took = time.monotonic() - began
    assert source.reads <= took * READS_PER_SECOND + 2
    assert all(outcome is None or isinstance(outcome, LookupDeferred) for outcome in outcomes)
    with suppress(LookupDeferred):
        await found
    assert await tokens.find(new.token_id) is not None
    await tokens.close()


async def test_waiting_is_bounded() -> None:
    """More than MAX_WAITING unknown tokens do not wait: they are deferred at once, but for those that wait already."""
    source = Source()
    source.seconds = 0.2
    tokens = KnownTokens(source)
    waiting = [Token.generate().token_id for _ in range(MAX_WAITING)]
    calls = [asyncio.create_task(tokens.find(token_id)) for token_id in (*waiting, *waiting)]
    await asyncio.sleep(0)
    with pytest.raises(LookupDeferred):
        await tokens.find(Token.generate().token_id)
    assert tokens.deferred == 1
    assert await asyncio.gather(*calls) == [None] * len(calls)


async def test_the_turn_of_a_token_comes_although_its_call_was_deferred() -> None:
    """A good token that came when too many waited is known after the next read."""
    source = Source()
    good = source.make()
    tokens = KnownTokens(source)
    calls = [asyncio.create_task(tokens.find(Token.generate().token_id)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(LookupDeferred):
        await tokens.find(good.token_id)
    await asyncio.gather(*calls)
    assert await tokens.find(good.token_id) is not None
    assert source.reads == 1


async def test_an_unknown_token_is_remembered() -> None:
    """A made-up token that is sent again and again is looked up once."""
    source = Source()
    tokens = KnownTokens(source)
    made_up = Token.generate().token_id
    for _ in range(5):
        assert await tokens.find(made_up) is None
    assert source.reads == 1


async def test_known_tokens_are_read_again_beside_the_calls() -> None:
    """A token in use is read again before it is too old, and no call waits for that."""
    source, now = Source(), Time()
    token = source.make()
    tokens = KnownTokens(source, now)
    await tokens.find(token.token_id)
    source.seconds = 0.2
    now.now += 0.6
    began = time.monotonic()
    assert await tokens.find(token.token_id) is not None
    assert time.monotonic() - began < 0.1
    await asyncio.sleep(0.4)
    assert source.reads == 2
    assert tokens.fresh


async def test_an_old_table_is_not_relied_on() -> None:
    """After a pause a call waits for a read, so that a token that was revoked meanwhile is not accepted."""
    source, now = Source(), Time()
    token = source.make()
    tokens = KnownTokens(source, now)
    await tokens.find(token.token_id)
    source.revoke(token)
    now.now += 600
    source.seconds = 0.1
    with pytest.raises(LookupDeferred):
        await tokens.find(token.token_id, time.monotonic() + 0.01)
    assert await tokens.find(token.token_id) is None


async def test_an_outage_delays_known_tokens_once() -> None:
    """While Postgres hangs, known tokens are accepted without a wait, and it is tried again every half a second."""
    source = Source()
    token = source.make()
    tokens = KnownTokens(source)
    await tokens.find(token.token_id)
    source.away, source.seconds = True, 0.3
    waited = []
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        began = time.monotonic()
        assert await tokens.find(token.token_id) is not None
        waited.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    assert max(waited) < 0.2
    assert 3 <= source.reads <= 7
    with pytest.raises(Unavailable):
        await tokens.find(Token.generate().token_id)
    source.away, source.seconds = False, 0.0
    await asyncio.sleep(TOKEN_TTL / 2)
    await tokens.find(token.token_id)
    await asyncio.sleep(0.1)
    assert tokens.fresh


async def test_known_tokens_stay_valid_whatever_fails() -> None:
    """An unexpected error, such as a damaged index, is for known tokens as if Postgres were away."""
    source, now = Source(), Time()
    token = source.make()
    tokens = KnownTokens(source, now)
    await tokens.find(token.token_id)
    source.error = psycopg.errors.IndexCorrupted("index is damaged")
    now.now += 10
    assert await tokens.find(token.token_id) is not None
    with pytest.raises(Unavailable):
        await tokens.find(Token.generate().token_id)
    source.error = None
    now.now += 10
    assert await tokens.find(source.make().token_id) is not None
    await tokens.close()
