"""A browser, the console of a whole server with plausible data, and pages that fail a test for what nobody sees."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, StorageState

from browser.chromium import open_browser
from browser.watch import Watch
from fixtures.demo import Demo, make_demo
from fixtures.dev_server import free_address
from fixtures.served import Server, launch, make_settings
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.management.tokens import Role

Theme = Literal["light", "dark"]

PHONE = (390, 844)
DESKTOP = (1440, 900)


@dataclass
class Console:
    """A running server with its console, and what is in it."""

    server: Server
    demo: Demo
    sessions: dict[Role, StorageState] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """The address of the console, without a slash at its end."""
        return f"http://{self.server.settings.operations_listen}/console"

    @property
    def tokens(self) -> dict[Role, str]:
        """A token of each role."""
        return self.server.tokens


@pytest.fixture(scope="package")
def console(migrated_database_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A server for all tests of this folder. Those that change something make a key of their own."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("browser"))  # of its own: usage in it is this server's alone
    valkey.start()
    settings = make_settings(
        migrated_database_url(),
        valkey.url,
        "grpcio",
        operations_listen=free_address(),
        key_environment="live",
        workers=1,
    )
    demo = asyncio.run(make_demo(settings))
    server = launch(settings, demo.tokens, tmp_path_factory.mktemp("browser") / "log")
    server.wait_for_output("ratelimit-service serves on")
    yield Console(server, demo)
    server.close()
    valkey.stop()


@pytest_asyncio.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    """A browser for all tests of this folder."""
    async with open_browser() as opened:
        yield opened


@dataclass
class Visitor:
    """Opens pages of the console in contexts of their own, signed in unless `role` is None."""

    browser: Browser
    console: Console
    watches: list[Watch] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    async def open(
        self,
        path: str = "/",
        *,
        role: Role | None = Role.ADMIN,
        theme: Theme = "dark",
        size: tuple[int, int] = DESKTOP,
        **options: Any,  # noqa: ANN401  those of a context
    ) -> Page:
        """A page in a new context, with its watch."""
        if size == PHONE:
            options = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2, **options}
        context = await self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            storage_state=await self._session(role) if role else None,
            locale="en-GB",
            timezone_id="UTC",
            **options,
        )
        self.contexts.append(context)
        context.set_default_timeout(15_000)
        page = await context.new_page()
        self.watches.append(Watch(page))
        await self.goto(page, path)
        return page

    async def goto(self, page: Page, path: str) -> None:
        """Open a page of the console by its path, which begins with a slash."""
        await page.goto(f"{self.console.url}{path}", wait_until="load")

    async def _session(self, role: Role) -> StorageState:
        """The cookies of a session, opened at the first use by signing in as people do."""
        if role not in self.console.sessions:
            page = await self.open("/sign-in", role=None)
            await sign_in(page, self.console.tokens[role])
            self.console.sessions[role] = await page.context.storage_state()
        return self.console.sessions[role]


async def sign_in(page: Page, token: str) -> None:
    """Sign in on the page that asks for a token."""
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(lambda url: "/sign-in" not in url)


@pytest_asyncio.fixture
async def visitor(browser: Browser, console: Console) -> AsyncIterator[Visitor]:
    """Opens pages. At the end, fails for any error of a script, violation of the policy or failed request."""
    found = Visitor(browser, console)
    yield found
    for context in found.contexts:
        await context.close()
    for watch in found.watches:
        watch.check()


Open = Callable[..., Awaitable[Page]]


@pytest.fixture
def open_page(visitor: Visitor) -> Open:
    """Opens pages as `Visitor.open` does."""
    return visitor.open
