"""Signing in and out."""

from http import HTTPStatus
from typing import NamedTuple

import structlog
from starlette.responses import Response

from ratelimit_service.api.authentication import deferred_token
from ratelimit_service.console.security.sessions import clear_session_cookie, set_session_cookie
from ratelimit_service.console.visit import WELCOME, Visit
from ratelimit_service.errors import LookupDeferred, PermissionDenied, Unauthenticated
from ratelimit_service.management.sessions import invalid_token
from ratelimit_service.management.tokens import Token

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
    text = visit.form.text("token")
    try:
        await _check_known(visit, text)
        value, session = await visit.services.sessions.open(text, replaced=visit.session_value)
    except Unauthenticated as error:
        visit.console.wrong_tokens.add("console", error.reason, f"the last one from {peer}")
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
    visit.console.sessions.opened(value, session)
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


async def _check_known(visit: Visit, text: str) -> None:
    """Raise Unauthenticated for a token that is not valid, at no cost of its own: anybody can make tokens up.

    Raises Unavailable if tokens cannot be read, or too many unknown ones wait for that.
    """
    token = Token.parse(text)
    try:
        stored = None if token is None else await visit.services.tokens.find(token.token_id)
    except LookupDeferred:
        raise deferred_token() from None
    if token is None or stored is None or not stored.accepts(token):
        raise invalid_token()


def _too_many(visit: Visit, following: str, wait: int) -> Response:
    wrong = _Wrong(f"Too many wrong tokens from this address. Try again in {wait} s.", "TOO_MANY_GUESSES")
    response = _form(visit, following, HTTPStatus.TOO_MANY_REQUESTS, wrong)
    response.headers["Retry-After"] = str(wait)
    return response


def _form(visit: Visit, following: str, status: int = HTTPStatus.OK, wrong: _Wrong | None = None) -> Response:
    # A link on another site's page brings no cookie (SameSite=Strict), a page that loads itself again does.
    again = wrong is None and visit.request.headers.get("sec-fetch-site") == "cross-site"
    return visit.page("sign_in.html", status=status, next=following, wrong=wrong, again=again)
