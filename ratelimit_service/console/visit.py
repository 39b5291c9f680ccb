"""One request of a page: who asks, what they sent, and how to answer."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, unquote, urlencode

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ratelimit_service.api.guessing import GuessLimiter
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.aside import Aside
from ratelimit_service.console.assets import Assets
from ratelimit_service.console.banners import banners_of
from ratelimit_service.console.forms import Fields
from ratelimit_service.console.read_cache import ReadCache
from ratelimit_service.console.rendering import Renderer
from ratelimit_service.console.security.one_time_forms import OneTimeForms
from ratelimit_service.console.security.origin import form_token
from ratelimit_service.console.security.sessions import SessionReader
from ratelimit_service.console.security.streams import Streams
from ratelimit_service.console.services import ConsoleConfig, ConsoleServices
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.sessions import Session
from ratelimit_service.management.tokens import Role
from ratelimit_service.management.totals import Totals

T = TypeVar("T")

_TOTALS_SECONDS: Final = 5.0
_TOTALS_WAIT: Final = 0.2

documents: Final = Aside("documents")
"""For what makes or reads a document that may be large, which takes seconds."""

WELCOME: Final = "welcome"
"""The cookie of a browser that has just signed in."""


@dataclass(frozen=True, slots=True)
class Console:
    """What all visits share."""

    services: ConsoleServices
    config: ConsoleConfig
    sessions: SessionReader
    guesses: GuessLimiter
    wrong_tokens: ReasonCounts
    forms: OneTimeForms
    streams: Streams
    assets: Assets
    renderer: Renderer
    cache: ReadCache


@dataclass(frozen=True, slots=True)
class Section(Generic[T]):
    """A part of a page that was read by itself: its value, or the error that stands in its place."""

    value: T | None = None
    error: ServiceError | None = None


@dataclass(slots=True)
class Visit:
    """A request for a page. `session` is None on pages that need none; `form` is empty unless one was sent.

    `totals` are the counts in the navigation, None while they are not known.
    """

    request: Request
    console: Console
    request_id: str
    query: Fields
    session: Session | None = None
    session_value: str = field(default="", repr=False)
    form: Fields = field(default_factory=Fields)
    totals: Totals | None = None

    @property
    def services(self) -> ConsoleServices:
        """The services."""
        return self.console.services

    @property
    def now_us(self) -> int:
        """The time, in microseconds since 1970 UTC."""
        return self.console.services.clock.now_us()

    @property
    def root(self) -> str:
        """The path that the console is mounted at, without a slash at its end."""
        return str(self.request.scope.get("root_path", ""))

    @property
    def actor(self) -> str:
        """The name of who is signed in, for the audit log."""
        return self.session.caller.name if self.session else ""

    @property
    def token_id(self) -> str:
        """The token that who is signed in used; empty if nobody is."""
        return self.session.token_id if self.session else ""

    @property
    def is_admin(self) -> bool:
        """Whether who is signed in may change something."""
        return self.session is not None and self.session.caller.role is Role.ADMIN

    def part(self, name: str) -> str:
        """A part of the path, such as the key id in `/keys/{key_id}`."""
        return str(self.request.path_params[name])

    def url(self, *parts: str, **query: str | int) -> str:
        """The address of a page: `url("keys", key_id)`. What is empty in the query is left out."""
        path = "".join(f"/{quote(part, safe='')}" for part in parts) or "/"
        asked = {name: str(value) for name, value in query.items() if value not in ("", None)}
        return f"{self.root}{path}" + (f"?{urlencode(asked)}" if asked else "")

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:  # noqa: ANN401  what it shows
        """Render a page."""
        response = HTMLResponse(self.render(template, **context), status_code=status)
        if self.session is not None and WELCOME in self.request.cookies:  # it is read once
            response.delete_cookie(WELCOME, path=self.root or "/", samesite="strict")
        return response

    async def large_page(self, template: str, *, status: int = 200, **context: Any) -> Response:  # noqa: ANN401
        """Render a page of up to some megabytes beside the event loop, where probes are answered meanwhile."""
        return await documents(self.page, template, status=status, **context)

    def render(self, template: str, **context: Any) -> str:  # noqa: ANN401  what the template shows
        """Render a template, or a part of a page."""
        shared = {
            "visit": self,
            "url": self.url,
            "now_us": self.now_us,
            "csrf": form_token(self.session_value) if self.session else "",
            "is_admin": self.is_admin,
            "theme": self._theme,
            "config": self.console.config,
            "totals": self.totals,
            "banners": banners_of(self.services.faults(), self.services.degraded(), self.services.unenforced()),
            "is_new_viewer": not self.is_admin and WELCOME in self.request.cookies,
        }
        return self.console.renderer.render(template, shared | context)

    def redirect(self, *parts: str, **query: str | int) -> Response:
        """Send the browser to a page of the console."""
        return self.redirect_to(self.url(*parts, **query))

    def redirect_to(self, target: str) -> Response:
        """Send the browser to an address that `url` or `local` returned."""
        return RedirectResponse(target, status_code=303)

    async def section(self, reading: Coroutine[Any, Any, T]) -> Section[T]:
        """Read what a part of the page shows; if it cannot be read, the rest of the page stays."""
        try:
            return Section(value=await reading)
        except ServiceError as error:
            return Section(error=error)

    async def count_totals(self) -> None:
        """Read the counts of the navigation, at most five seconds old. A page does not wait long for them."""
        cache = self.console.cache
        try:
            async with asyncio.timeout(_TOTALS_WAIT):
                self.totals = await cache.get("totals", _TOTALS_SECONDS, self._read_totals)
        except TimeoutError:
            self.totals = None

    async def _read_totals(self) -> Totals | None:
        try:
            return await self.services.totals.read()
        except ServiceError:
            return None

    def asset(self, name: str) -> str:
        """The address of a script, a style or the icons."""
        return f"{self.root}{self.console.assets.path(name)}"

    def local(self, target: str) -> str:
        """TARGET if it is an address of a page of the console, else that of its first page."""
        root = self.root
        plain = target.isascii() and target.isprintable() and "\\" not in target
        if plain and target.startswith(f"{root}/") and not target.startswith("//"):
            parsed = URL(target)
            if not parsed.scheme and not parsed.netloc and ".." not in unquote(parsed.path).split("/"):
                return target
        return self.url()

    @property
    def _theme(self) -> str:
        theme = self.request.cookies.get("theme", "")
        return theme if theme in {"light", "dark"} else ""


Handler = Callable[[Visit], Awaitable[Response]]
"""Answers a visit."""
