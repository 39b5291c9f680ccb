"""How a store fails, in words for whoever is on call: slow, hanging, not running, or not found by its name."""

import asyncio
import re
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ratelimit_service.decision.ports import SlowStore
from ratelimit_service.server.store_ways import Way
from ratelimit_service.settings import Settings

SECONDS: Final = 0.5
"""That connecting gets."""

_PORTS: Final = {"postgresql": 5432, "postgres": 5432, "redis+sentinel": 26379, "rediss+sentinel": 26379}
_REDIS_PORT: Final = 6379
_SILENCE: Final = re.compile("within|in time|has not replied|did not (reply|answer)|timeout")
"""In an error of a store that sent no answer, not even an error."""


class Address(NamedTuple):
    """Where a store listens."""

    host: str
    port: int


def address_of(url: str) -> Address | None:
    """The first address in the URL of a store. None if there is none, as of a Unix socket, or it is malformed."""
    try:
        parts = urlsplit(url)
        first = urlsplit(f"//{parts.netloc.rpartition('@')[2].partition(',')[0]}")
        if not first.hostname:
            return None
        return Address(first.hostname, first.port or _PORTS.get(parts.scheme, _REDIS_PORT))
    except ValueError:
        return None


async def way_to(address: Address | None, error: Exception) -> Way:
    """Try to connect to ADDRESS, for SECONDS at most. ERROR is that of what was asked of the store."""
    if address is None:
        return Way.UNKNOWN
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(*address)
    except TimeoutError:
        return Way.SILENT
    except ConnectionRefusedError:
        return Way.REFUSED
    except socket.gaierror:
        return Way.UNNAMED
    except OSError:
        return Way.UNKNOWN
    writer.close()
    return Way.HANGING if isinstance(error, TimeoutError) or _SILENCE.search(str(error)) else Way.FAILING


async def describe_fault(settings: Settings, component: str, error: Exception) -> str:
    """What is wrong with COMPONENT, a store whose probe has failed with ERROR. Anybody may read it."""
    if isinstance(error, SlowStore):
        return str(error)
    if component == "redis":
        url = settings.redis_url.get_secret_value()
    else:
        url = settings.url(settings.decision_database_variable)
    return await way_to(address_of(url), error)
