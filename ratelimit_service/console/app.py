"""The console as an ASGI application, to be mounted at `/console` or served alone."""

from collections.abc import Awaitable, Callable
from itertools import groupby

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from ratelimit_service.api.guessing import GuessLimiter
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.console.assets import Assets
from ratelimit_service.console.guard import guarded
from ratelimit_service.console.read_cache import ReadCache
from ratelimit_service.console.rendering import Renderer
from ratelimit_service.console.routes import ROUTES
from ratelimit_service.console.security.headers import SecurityHeaders
from ratelimit_service.console.security.hosts import HostCheck, allowed_hosts
from ratelimit_service.console.security.one_time_forms import OneTimeForms
from ratelimit_service.console.security.sessions import SessionReader
from ratelimit_service.console.security.streams import Streams
from ratelimit_service.console.services import ConsoleConfig, ConsoleServices
from ratelimit_service.console.visit import Console

__all__ = ["ConsoleConfig", "ConsoleServices", "console_app"]


def console_app(services: ConsoleServices, config: ConsoleConfig) -> ASGIApp:
    """Build the console. Mounted, it takes its prefix from `root_path`."""
    assets = Assets()
    console = Console(
        services=services,
        config=config,
        sessions=SessionReader(services.sessions, services.clock),
        guesses=GuessLimiter(),
        wrong_tokens=ReasonCounts("sign-in with a wrong token"),
        forms=OneTimeForms(),
        streams=Streams(),
        assets=assets,
        renderer=Renderer(),
        cache=ReadCache(),
    )

    async def static(request: Request) -> Response:
        found = assets.respond(request.path_params["digest"], request.path_params["name"])
        return found or PlainTextResponse("There is no such file.\n", status_code=404)

    paths = [Path("/static/{digest}/{name:path}", static, methods=["GET"])]
    for path, routes in groupby(ROUTES, key=lambda route: route.path):
        paths.append(_path(path, {route.method: guarded(console, route) for route in routes}))
    app = Starlette(
        routes=paths,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(HostCheck, hosts=allowed_hosts(config.listen, config.hosts)),
        ],
    )
    app.router.redirect_slashes = False  # it would redirect to whatever host the request names
    return app


def _path(path: str, endpoints: dict[str, Callable[[Request], Awaitable[Response]]]) -> Path:
    async def endpoint(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Path(path, endpoint, methods=list(endpoints))
