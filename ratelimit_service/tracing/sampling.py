"""Which calls are recorded: a share of all, and those that their callers record, within a rate."""

from collections.abc import Callable
from random import random
from time import monotonic

from ratelimit_service.tracing.call import SampledCall
from ratelimit_service.tracing.context import is_unsampled, parse


class Rate:
    """Admits so many a second."""

    def __init__(self, per_second: int, now: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._now = now
        self._second = 0.0
        self._admitted = 0

    @property
    def has_room(self) -> bool:
        """Whether another one would be admitted."""
        if self._admitted < self._per_second:
            return True
        return self._per_second > 0 and self._now() - self._second >= 1.0

    def admit(self) -> bool:
        """Count one, if there is room for it. Returns whether there was."""
        if self._now() - self._second >= 1.0:
            self._second, self._admitted = self._now(), 0
        if self._admitted >= self._per_second:
            return False
        self._admitted += 1
        return True


class Sampler:
    """Decides for each call, before anything else of it is read.

    TRACED and LOGGED are the shares of calls, 0 to 1, of which there are spans and lines of the access log: of two
    shares the smaller one is a part of the larger. The former is of calls whose callers have no trace: a caller that
    does not record its own is not traced, and one that does is FOLLOWED so often a second.
    """

    def __init__(
        self,
        traced: float,
        logged: float,
        followed: int,
        draw: Callable[[], float] = random,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._traced = traced
        self._logged = logged
        self.largest = max(traced, logged)
        """The larger share."""
        self.draw = draw
        """Draws the number, 0 to 1, by which a call is sampled: one without a trace is not, if it is `largest` or more.

        Both are here for whoever would save a call of `begin` for nearly all calls.
        """
        self._followed = Rate(followed, now)

    def begin(self, traceparent: str | bytes | None) -> SampledCall | None:
        """The call with this metadata, if more of it is recorded than counts; None, as for nearly all, if not."""
        return self.decide(traceparent, self.draw())

    def decide(self, traceparent: str | bytes | None, drawn: float) -> SampledCall | None:
        """The same, by the number DRAWN."""
        if traceparent is None:
            if drawn >= self.largest:
                return None
            return SampledCall(None, traced=drawn < self._traced, logged=drawn < self._logged)
        text = traceparent.decode("ascii", "replace") if isinstance(traceparent, bytes) else traceparent
        logged = drawn < self._logged
        if is_unsampled(text):
            return SampledCall(None, traced=False, logged=True) if logged else None
        parent = parse(text)
        traced = drawn < self._traced and (parent is None or parent.sampled)
        follows = parent is not None and parent.sampled and not traced and self._followed.has_room
        if not (traced or follows or logged):
            return None
        return SampledCall(parent, traced=traced, logged=logged, follows=follows)

    def follow(self, call: SampledCall, *, trusted: bool) -> None:
        """Trace CALL because its caller does, if it asks for that, its caller is TRUSTED and the rate has room."""
        if call.follows:
            call.follows = False
            call.traced = trusted and self._followed.admit()
