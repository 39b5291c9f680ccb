"""Forms that do something that must not be repeated by reloading the page that shows the result."""

import secrets
from collections import OrderedDict
from typing import Final

from ratelimit_service.errors import FailedPrecondition

MAX_USED: Final = 4096
"""Forms that are remembered as sent."""

_MAX_NUMBER: Final = 32


class OneTimeForms:
    """Gives each form a number, and knows those that were sent. Of one server: another takes a form once more."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, None] = OrderedDict()

    def number(self) -> str:
        """A number for a new form."""
        return secrets.token_urlsafe(12)

    def use(self, number: str) -> bool:
        """Whether this form is sent for the first time."""
        if not number or len(number) > _MAX_NUMBER or number in self._used:
            return False
        self._used[number] = None
        while len(self._used) > MAX_USED:
            self._used.popitem(last=False)
        return True


def form_sent_before() -> FailedPrecondition:
    """Return the error for a form that was sent a second time."""
    return FailedPrecondition(
        "this form was sent before, and did its work then; a secret is shown once only. If it is lost, rotate the key",
        reason="FORM_SENT_BEFORE",
    )
