"""Signing in and out."""

from http import HTTPStatus
from typing import NamedTuple

import structlog
from starlette.responses import Response

from ratelimit_service.console.security.sessions import clear_session_cookie, set_session_cookie
from ratelimit_service.console.visit import WELCOME, Visit
from ratelimit_service.errors import PermissionDenied, Unauthenticated

_log = structlog.stdlib.get_logger(__name__)


class _Wrong(NamedTuple):
    """Why there is no session: in words, and the reason to search for."""

    message: str
    reason: str


async def show(visit: Visit) -> Response:
    """Show the form, or go on if there is a session."""
    following = visit.local(visit.query.text("next"))
    if visit.session is not None:
        return visit.redirect_to(following)
    return _form(visit, following)


async def sign_in(visit: Visit) -> Response:
    """Open a session, with a new value whatever cookie was sent, and go on to the page that was asked for."""
    following = visit.local(visit.form.text("next"))
    peer = visit.request.client.host if visit.request.client else ""
    try:
        value, session = await visit.services.sessions.open(visit.form.text("token"), replaced=visit.session_value)
    except Unauthenticated as error:
        _log.warning("sign-in with a wrong token", peer=peer)
        wait = await visit.console.guesses.wrong(peer)
        if wait:
            return _too_many(visit, following, wait)
        wrong = _Wrong("This token is not known, or was revoked.", error.reason)
        return _form(visit, following, HTTPStatus.UNAUTHORIZED, wrong)
    except PermissionDenied as error:
        wrong = _Wrong(
            "A token of role gateway requests decisions only. Use one of role admin or viewer.", error.reason
        )
        return _form(visit, following, HTTPStatus.FORBIDDEN, wrong)
    _log.info("signed in to the console", name=session.caller.name, peer=peer)
    if visit.session_value:
        visit.console.sessions.close(visit.session_value)
    response = visit.redirect_to(following)
    set_session_cookie(visit.request, response, value)
    secure = visit.request.url.scheme == "https"
    path = visit.root or "/"
    response.set_cookie(WELCOME, "1", max_age=60, path=path, secure=secure, httponly=True, samesite="strict")
    return response


async def sign_out(visit: Visit) -> Response:
    """Close the session on every server: a copy of the cookie opens nothing any more."""
    visit.console.sessions.close(visit.session_value)
    await visit.services.sessions.close(visit.session_value)
    response = visit.redirect("sign-in")
    clear_session_cookie(visit.request, response)
    return response


def _too_many(visit: Visit, following: str, wait: int) -> Response:
    wrong = _Wrong(f"Too many wrong tokens from this address. Try again in {wait} s.", "TOO_MANY_GUESSES")
    response = _form(visit, following, HTTPStatus.TOO_MANY_REQUESTS, wrong)
    response.headers["Retry-After"] = str(wait)
    return response


def _form(visit: Visit, following: str, status: int = HTTPStatus.OK, wrong: _Wrong | None = None) -> Response:
    # A link on another site's page brings no cookie (SameSite=Strict), a page that loads itself again does.
    again = wrong is None and visit.request.headers.get("sec-fetch-site") == "cross-site"
    return visit.page("sign_in.html", status=status, next=following, wrong=wrong, again=again)
