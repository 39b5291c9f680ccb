"""Changes that have to be confirmed: the form is shown again as a page that says what it would do, and asks."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeVar

from starlette.responses import Response

from ratelimit_service.console.visit import Visit
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.usage.previews import ChangePreviews

_FIELD: Final = "confirmation"
_ASKED: Final = "asked_us"
_OWN: Final = frozenset({_FIELD, _ASKED, "csrf"})

T = TypeVar("T")


async def confirmed(visit: Visit, change: Callable[[str], Awaitable[T]], *, by_name: bool = False) -> T:
    """What CHANGE returns, which gets the confirmation that the form has.

    BY_NAME: whether a name that was typed into the form has confirmed it already. Raises ConfirmationRequired if the
    change is yet to be confirmed.
    """
    try:
        return await change(visit.form.text(_FIELD))
    except ConfirmationRequired as error:
        if not by_name:
            raise
        return await change(error.token)


def asked_us(visit: Visit) -> int:
    """When the form was sent for the first time: a time in it that is from then on must not change meanwhile."""
    known = visit.request.state
    if not hasattr(known, _ASKED):
        known.asked_us = min(visit.form.whole(_ASKED) or visit.now_us, visit.now_us)
    return int(known.asked_us)


async def confirmation_page(visit: Visit, error: ConfirmationRequired) -> Response:
    """Ask whether the form is to be sent again, with a confirmation."""
    previews = ChangePreviews(visit.services.simulations, visit.services.usage)
    fields = [(name, value) for name, values in visit.form.names().items() for value in values if name not in _OWN]
    return await visit.large_page(
        "confirm.html",
        status=HTTPStatus.CONFLICT,
        error=error,
        usage=await previews.words(error.affected),
        fields=[*fields, (_FIELD, error.token), (_ASKED, str(asked_us(visit)))],
    )
