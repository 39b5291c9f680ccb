"""Servers that the tests of this folder may break: each test has its own."""

from collections.abc import Callable, Iterator

import pytest

from fixtures.served import Serve, Server


@pytest.fixture
def own_server(serve: Serve) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own, which ends with the test."""
    servers: list[Server] = []

    def start(transport: str, **changes: object) -> Server:
        servers.append(serve(transport, **changes))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
