"""A server with a console, and browsers that are signed in to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from console.browser import Browser
from fixtures.dev_server import free_address
from fixtures.served import Serve, Server
from ratelimit_service.bootstrap import Services, open_services
from ratelimit_service.management.tokens import Role

T = TypeVar("T")

Browse = Callable[..., Browser]
Manage = Callable[[Callable[[Services], Awaitable[T]]], T]


@pytest.fixture(scope="package")
def server(serve_for_session: Serve) -> Iterator[Server]:
    """A real server on real stores. Tests make their own keys on it, and do not change those of others."""
    server = serve_for_session("grpcio", operations_listen=free_address(), console_hosts="console.example")
    yield server
    server.close()


@pytest.fixture(scope="package")
def base(server: Server) -> str:
    """The address of the console."""
    return f"http://{server.settings.operations_listen}/console"


@pytest.fixture
def browse(base: str) -> Iterator[Browse]:
    """Opens browsers, each without a session, or with the one whose cookie is given."""
    browsers: list[Browser] = []

    def open_browser(cookie: str = "") -> Browser:
        browsers.append(Browser(base))
        if cookie:
            browsers[-1].client.cookies.set("ratelimit-session", cookie, path="/console")
        return browsers[-1]

    yield open_browser
    for browser in browsers:
        browser.client.close()


@pytest.fixture
def anyone(browse: Browse) -> Browser:
    """A browser that is not signed in."""
    return browse()


@pytest.fixture
def admin(browse: Browse, server: Server) -> Browser:
    """An admin's browser."""
    return browse().sign_in(server.tokens[Role.ADMIN])


@pytest.fixture
def viewer(browse: Browse, server: Server) -> Browser:
    """A viewer's browser."""
    return browse().sign_in(server.tokens[Role.VIEWER])


@pytest.fixture
def manage(server: Server) -> Manage:
    """Uses the services beside the server, on the same database: `manage(lambda services: services.keys.get(...))`."""

    def use(work: Callable[[Services], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_services(server.settings) as services:
                return await work(services)

        return asyncio.run(run())

    return use
