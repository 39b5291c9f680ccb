"""What the reservations of threads and of asyncio share: everything but sending and waiting."""

from typing import NamedTuple

import grpc

from ._client_state import ClientState, Status, error_from
from ._gen.ratelimit.v1.rate_limit_service_pb2 import SettleLimitResponse
from .decision import Decision, limit_results, reservation_id_of
from .error import OVERLOADED, RESERVATION_NOT_FOUND, RateLimitError, is_failure
from .settlement import OnError, Settlement

MAX_ATTEMPTS = 3
"""How often a settlement is sent at most: the service settles a reservation once, however often it gets that."""


class Terms(NamedTuple):
    """What a reservation is made with."""

    estimate: int
    hold: float
    on_error: OnError
    extend: bool


class ReservationState:
    """A decision on an estimate, and its settlement once there is one."""

    def __init__(self, client: ClientState, decision: Decision, terms: Terms) -> None:
        self._client = client
        self.terms = terms
        self.decision = decision
        self.id = reservation_id_of(decision)
        self.settlement: Settlement | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to settle."""
        return bool(self.id) and self.settlement is None and not self._client.closed

    @property
    def outcome(self) -> Settlement:
        """The settlement. Where there was nothing to settle, an unsettled one."""
        return self.settlement or self._unsettled(None)

    def settled(self, response: SettleLimitResponse) -> None:
        """The service has settled the reservation."""
        self.settlement = Settlement(
            settled=True,
            allowed=response.allowed,
            clamped=response.clamped,
            limits=limit_results(response.limits),
            failure=None,
        )

    def not_settled(self, status: Status, attempt: int) -> None:
        """ATTEMPT of a settlement, counted from 1, ended with STATUS.

        Without a settlement afterwards, it is sent again. Raises RateLimitError for what the caller has to fix.
        """
        error = error_from(status)
        if is_failure(error):
            is_last = attempt == MAX_ATTEMPTS or error.reason == OVERLOADED or self._client.closed
        elif _is_unknown(error):
            is_last = True
        else:
            raise error
        if is_last:
            self.ended(error)

    def ended(self, error: RateLimitError) -> None:
        """No settlement follows any more, by ERROR: that of the last attempt, or that the client was closed."""
        self.settlement = self._unsettled(error)
        self._client.unsettled(error)

    def cost_at_end(self, *, failed: bool) -> int | None:
        """What is settled when the scope is left, by an exception if FAILED. None: nothing is sent."""
        if not self.is_open:
            return None
        if not failed or self.terms.on_error is OnError.ESTIMATE:
            return self.terms.estimate
        return 0 if self.terms.on_error is OnError.NOTHING else None

    def not_settled_at_end(self, error: RateLimitError) -> None:
        """Count and report ERROR, since the scope was left by an exception that comes first."""
        self._client.unsettled(error)

    @property
    def first_extension(self) -> float | None:
        """Seconds until the hold of a scope that opens now is extended. None: never."""
        return self.terms.hold / 2 if self.terms.extend and self.is_open else None

    def next_extension(self, failure: Status | None) -> float | None:
        """Seconds from an extension, which may have failed, to the next. None: it was the last."""
        if failure is None:
            return self.terms.hold / 2
        return self.terms.hold / 4 if is_failure(error_from(failure)) else None

    def _unsettled(self, failure: RateLimitError | None) -> Settlement:
        return Settlement(settled=False, allowed=self.decision.allowed, clamped=0, limits=(), failure=failure)


def raise_unless_failed(status: Status) -> None:
    """Raise the RateLimitError of an extension that ended with STATUS, if it is one that the caller has to fix."""
    error = error_from(status)
    if not is_failure(error) and not _is_unknown(error):
        raise error


def _is_unknown(error: RateLimitError) -> bool:
    """Whether the service has no such reservation. NOT_FOUND alone may come from a proxy."""
    return error.code is grpc.StatusCode.NOT_FOUND and error.reason == RESERVATION_NOT_FOUND
