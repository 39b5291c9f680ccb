"""What the sync and the asyncio client have in common: all but the sending."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

import grpc

from ._check import Check
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from .decision import FAILED_CLOSED, FAILED_OPEN, Decision, Origin
from .denials import CallKey, Denials
from .errors import DETAILS_KEY, ServiceFault, error_of
from .failures import Failures
from .options import Settings


class _Ended(Protocol):
    """A call that ended with an error, of either kind that gRPC has."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class Exchange:
    """Turns what comes back into decisions; remembers denials and counts failures."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._denials = Denials(
            settings.denial_cache_size, timedelta(seconds=settings.denial_cache_longest), settings.clock
        )
        self.failures = Failures()
        self.metadata = (("authorization", f"Bearer {settings.token}"),) if settings.token else ()

    def remembered(self, check: Check) -> Decision | None:
        """The denial that makes asking needless, if there is one."""
        if check.past_the_cache or not self._denials:
            return None
        return self._denials.get(CallKey.of(check.request))

    def answered(self, check: Check, response: CheckLimitResponse) -> Decision:
        """The service's decision."""
        decision = Decision(response, Origin.SERVICE)
        if not decision.allowed and not check.past_the_cache:
            self._denials.put(CallKey.of(check.request), decision)
        return decision

    def failed(self, ended: _Ended) -> Decision:
        """What to do about a call that ended with an error: fail open or closed, or raise CallRefused."""
        details = next((_raw(value) for key, value in ended.trailing_metadata() or () if key == DETAILS_KEY), None)
        error = error_of(ended.code(), ended.details() or "", details)
        if not isinstance(error, ServiceFault):
            raise error
        self.failures.count(allowed=self._settings.fail_open)
        if self._settings.on_failure is not None:
            self._settings.on_failure(error)
        return FAILED_OPEN if self._settings.fail_open else FAILED_CLOSED


def may_be_sent_again(code: grpc.StatusCode, left: float) -> bool:
    """Whether a call that ended with CODE is worth another attempt in the LEFT seconds."""
    return code is grpc.StatusCode.UNAVAILABLE and left > 0


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
