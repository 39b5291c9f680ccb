"""Every test of this folder runs against both transports, and those of calls with every stock client that is here."""

from collections.abc import Callable, Iterator

import pytest

from fixtures.served import Server
from transport.conformance.clients import Client, PythonAioClient, PythonClient, go_client, installed, node_client

TRANSPORTS = ("grpcio", "envoy")


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Server:
    """A server behind each transport in turn."""
    return shared_server(request.param)


@pytest.fixture(scope="session", params=installed())
def client(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """Each client in turn, connected to each server in turn."""
    makers: dict[str, Callable[[], Client]] = {
        "python": lambda: PythonClient(server.address),
        "python-aio": lambda: PythonAioClient(server.address),
        "go": lambda: go_client(server.address, tmp_path_factory.mktemp("go")),
        "node": lambda: node_client(server.address),
    }
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture
def key(server: Server) -> tuple[str, str]:
    """The id and the secret of a fresh key on plan `once`: 20 tokens, not refilled."""
    return server.key("once")
