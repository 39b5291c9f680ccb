"""Commands that are sent again until they are answered."""

import pytest

from faults.proxy import FaultProxy
from ratelimit_service.buckets.redis.command import LOST_PAUSE, execute
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.buckets.redis.route import StandaloneRoute
from ratelimit_service.decision.ports import StoreUnavailable

NOBODY = 1
"""A port that nobody listens on."""


async def test_a_proxy_without_a_server_is_not_flooded_with_connections() -> None:
    """It accepts each connection and ends it at once; another one is made after a pause."""
    with FaultProxy(NOBODY) as proxy:
        route = StandaloneRoute(Address("127.0.0.1", proxy.port), Login())
        with pytest.raises(StoreUnavailable, match="not answered within 1 s"):
            await execute(route, "PING", seconds=1, failure="not answered")
        assert 2 <= proxy.connections <= 1 / LOST_PAUSE + 1
