"""The service behind both transports, and for some tests a real Envoy in front of a real upstream."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.envoy.front import FrontEnvoy, Json, front_config, starting_fronts
from api.envoy.language_model import LanguageModel
from api.envoy.upstream import Upstream
from fixtures.served import Serve, Server

TRANSPORTS = ("grpcio", "envoy")
StartFront = Callable[..., FrontEnvoy]


@pytest.fixture(scope="session")
def proxy_server(serve_for_session: Serve) -> Callable[[str], Server]:
    """The server behind a transport. Tests leave its settings as they are, and bring keys and domains of their own."""
    servers: dict[str, Server] = {}

    def get(transport: str) -> Server:
        if transport not in servers:
            servers[transport] = serve_for_session(transport, limit_headers="ietf,x-ratelimit")
        return servers[transport]

    return get


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, proxy_server: Callable[[str], Server]) -> Server:
    """A server behind each transport in turn."""
    return proxy_server(request.param)


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """An upstream that returns what it received."""
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    """A stand-in for a language model."""
    model = LanguageModel()
    yield model
    model.close()


@pytest.fixture
def start_front(tmp_path: Path) -> Iterator[Callable[[Json], FrontEnvoy]]:
    """Start an Envoy of the test's own from a whole configuration."""
    with starting_fronts(tmp_path) as start:
        yield start


@pytest.fixture
def front(server: Server, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]) -> StartFront:
    """Start an Envoy of the test's own with these filters and routes, in front of the upstream."""

    def start(*filters: Json, routes: list[Json]) -> FrontEnvoy:
        return start_front(front_config(server.address, upstream.port, *filters, routes=routes))

    return start
