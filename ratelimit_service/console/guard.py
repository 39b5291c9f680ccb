"""The one place where a request is let in: bounds, session, role, origin and form token, in this order.

A route says what it needs (`Route`); nothing else in the console decides who may do what.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response

from ratelimit_service.api.authentication import require
from ratelimit_service.console.confirm import confirmation_page
from ratelimit_service.console.forms import MAX_FORM_BYTES, Fields, FormTooLarge, NotAForm, read_form, read_query
from ratelimit_service.console.pasted import has_secret, without_secret
from ratelimit_service.console.security.origin import is_form_token, is_same_origin
from ratelimit_service.console.security.sessions import session_value
from ratelimit_service.console.visit import Console, Handler, Visit
from ratelimit_service.errors import (
    Aborted,
    Code,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    ServiceError,
)
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.management.tokens import Role

_log = structlog.stdlib.get_logger(__name__)

STATUSES: Final = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    Code.ABORTED: HTTPStatus.CONFLICT,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}
"""The HTTP status of a page that shows an error."""

_TITLES: Final = {
    HTTPStatus.BAD_REQUEST: "This request cannot be read",
    HTTPStatus.NOT_FOUND: "There is no such thing",
    HTTPStatus.CONFLICT: "This is not possible now",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Too large",
    HTTPStatus.SERVICE_UNAVAILABLE: "A store does not answer",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something failed here",
}


@dataclass(frozen=True, slots=True)
class Route:
    """A path and method, the role that it needs, and what answers. A `role` of None needs no session."""

    method: str
    path: str
    role: Role | None
    handler: Handler
    max_bytes: int = MAX_FORM_BYTES


def guarded(console: Console, route: Route) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a route."""

    async def endpoint(request: Request) -> Response:
        visit = Visit(request, console, f"r-{secrets.token_hex(4)}", Fields())
        try:
            return await _admit(visit, route)
        except ConfirmationRequired as error:
            return await confirmation_page(visit, error)
        except ServiceError as error:
            return error_page(visit, error)
        except Exception:  # noqa: BLE001  whatever it is, the page says so and the log has it
            _log.exception("a page failed", path=route.path, request=visit.request_id)
            return error_page(visit, Internal(visit.request_id))

    return endpoint


async def _admit(visit: Visit, route: Route) -> Response:
    request = visit.request
    try:
        visit.query = read_query(request)
    except (FormTooLarge, NotAForm):
        raise InvalidArgument.of("query", "is too long or not UTF-8; open the page from its link") from None
    if route.method == "GET" and _has_secrets(visit):
        return visit.redirect_to(_without_secrets(visit))
    visit.session_value = session_value(request)
    visit.session = await visit.console.sessions.get(visit.session_value)
    if route.role is not None:
        if visit.session is None:
            return _sign_in_first(visit, route)
        require(visit.session.caller, route.role)
    if route.method == "POST":
        await _check_form(visit, route)
    if visit.session is not None and not route.path.endswith("/live"):
        await visit.count_totals()
    return await route.handler(visit)


def _has_secrets(visit: Visit) -> bool:
    values = (value for name, those in visit.query.names().items() for value in (name, *those))
    return has_secret(visit.request.url.path) or any(map(has_secret, values))


def _without_secrets(visit: Visit) -> str:
    """The address that was asked for, without the secrets that were pasted into it."""
    path = without_secret(visit.request.url.path)
    names = visit.query.names()
    kept = [(name, without_secret(value)) for name, those in names.items() for value in those if not has_secret(name)]
    return (quote(path) if path else visit.url()) + (f"?{urlencode(kept)}" if kept else "")


async def _check_form(visit: Visit, route: Route) -> None:
    request = visit.request
    if not is_same_origin(request.headers):
        raise PermissionDenied("the form was sent by a page of another site", reason="FORM_OF_ANOTHER_SITE")
    try:
        visit.form = await read_form(request, route.max_bytes)
    except FormTooLarge:
        raise ResourceExhausted(
            f"the form has more than {route.max_bytes:,} bytes or too many fields", reason="FORM_TOO_LARGE"
        ) from None
    except NotAForm:
        raise InvalidArgument.of("content-type", "is not that of a form in UTF-8") from None
    if route.role is not None and not is_form_token(visit.session_value, visit.form.raw("csrf")):
        raise PermissionDenied(
            "the form belongs to another session; open the page again and repeat", reason="FORM_OF_ANOTHER_SESSION"
        )


def _sign_in_first(visit: Visit, route: Route) -> Response:
    if "text/event-stream" in visit.request.headers.get("accept", ""):
        return Response(status_code=HTTPStatus.UNAUTHORIZED)
    target = visit.request.url
    following = target.path + (f"?{target.query}" if target.query else "") if route.method == "GET" else ""
    return visit.redirect("sign-in", next=following)


def error_page(visit: Visit, error: ServiceError) -> Response:
    """Return a page that shows an error: what, with which value, what to do, and the reason to search for."""
    status = STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    title = "This has changed since you opened it" if isinstance(error, Aborted) else _TITLES.get(status, "Failed")
    return visit.page("error.html", status=status, title=title, error=error)
