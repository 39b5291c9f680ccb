"""What a client reports to metrics."""

from typing import Protocol

from .decision import Decision
from .error import RateLimitError
from .failures import Outcome
from .grants import Grants


class ClientMetrics(Protocol):
    """Gets every decision and every failure, in the thread or loop of the call. Must neither block nor raise."""

    def decided(self, decision: Decision, duration: float) -> None:
        """A call has a DECISION, of the service, the cache or the client, after DURATION seconds.

        Not called for those that a client in mode `granted` decides without waiting: see `granted`.
        """

    def failed(self, error: RateLimitError, outcome: Outcome) -> None:
        """The service failed, and OUTCOME of the client's `failures` was incremented."""

    def granted(self, change: Grants) -> None:
        """The numbers of the client's `grants` have changed by so much: about once a second, and when it is closed.

        In the background, and only in mode `granted`.
        """
