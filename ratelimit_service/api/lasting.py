"""Responses that hold for a while: whoever makes the same call meanwhile may be given the same, without deciding it."""

from collections.abc import Callable
from typing import Final

from ratelimit_service.api.wire import Encoded

LASTS_SECONDS: Final = 0.02
"""For which a response is given again at most. What ends it and is not heard of, such as a token that was revoked, ends
it that late."""


class Lasting(Encoded):
    """The response to a call that was denied from memory, which holds until a monotonic time in seconds.

    To whom it is given again, it says to wait for up to LASTS_SECONDS longer than he has to.
    """

    __slots__ = ("count", "until")

    def __init__(self, data: bytes, until: float, count: Callable[[int], None]) -> None:
        super().__init__(data)
        self.until = until
        self.count = count
        """To be called with the number of calls that were given it: counts them as the one that it was made for."""
