"""Commands and scripts that may be sent again: each is, until it is answered or its time is over."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import hiredis

from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.connection import Connection, ConnectionLost
from ratelimit_service.buckets.redis.script import Script
from ratelimit_service.decision.ports import StoreUnavailable

LOST_PAUSE: Final = 0.1
"""Seconds before another connection takes the place of one that was lost: a proxy goes on accepting connections for a
server that is dead, and ends each at once."""

Word: TypeAlias = str | bytes | int


class Closable(Protocol):
    """What has the connections of routes."""

    async def close(self) -> None:
        """Close them."""
        ...


async def execute(route: Route, *words: Word, seconds: float, failure: str) -> tuple[object, Connection]:
    """Send a command, whose WORDS do no harm when they are sent twice. Returns the reply, and where it came from.

    Raises StoreUnavailable, which begins with FAILURE, when it has not been answered within SECONDS.
    """
    return await _send(route, words, words, seconds, failure)


async def run_script(
    route: Route, script: Script, keys: Sequence[str | bytes], *arguments: Word, seconds: float, failure: str
) -> object:
    """Run a script, which does no harm when it runs twice, and return the reply. Raises the same."""
    rest = (len(keys), *keys, *arguments)
    reply, _ = await _send(route, ("EVALSHA", script.sha, *rest), ("EVAL", script.text, *rest), seconds, failure)
    return reply


async def _send(
    route: Route, words: Sequence[Word], unloaded: Sequence[Word], seconds: float, failure: str
) -> tuple[object, Connection]:
    """Send WORDS, and UNLOADED in place of them from when the server does not know a script."""
    cause = "no connection could be made"
    try:
        async with asyncio.timeout(seconds):
            connection = route.connection() or await route.recover("")
            while True:
                try:
                    return await connection.execute(*words), connection
                except hiredis.ReplyError as error:
                    cause = str(error)
                    if cause.startswith("NOSCRIPT") and words is not unloaded:
                        words = unloaded
                    else:
                        connection = await route.recover(cause)
                except ConnectionLost as error:
                    cause = str(error)
                    await asyncio.sleep(LOST_PAUSE)
                    connection = route.connection() or await route.recover("")
    except TimeoutError:
        raise StoreUnavailable(f"{failure} within {seconds:g} s: {cause}") from None
