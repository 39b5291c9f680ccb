"""Responses to calls that reserved."""

from collections.abc import Callable

from ratelimit_service.api.wire import Encoded


class Reserving(Encoded):
    """The response to a call that reserved, and cannot be repeated: its caller alone is to learn of the reservation."""

    __slots__ = ("abandon",)

    def __init__(self, data: bytes, abandon: Callable[[], None]) -> None:
        super().__init__(data)
        self.abandon = abandon
        """To be called if the response does not reach the caller."""
