"""What a caller is told: a decision, and who decided."""

from datetime import timedelta
from enum import Enum, IntEnum
from typing import Final, NamedTuple, Self

from google.protobuf.duration_pb2 import Duration

from ._gen.ratelimit.v1.limit_pb2 import WeighedLimit as WeighedLimitMessage
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse

_NO_TIME = timedelta(0)


class _OpenEnum(IntEnum):
    """An enum that takes values of a newer server, so that the client need not be updated first."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if not isinstance(value, int):
            raise TypeError(f"{value!r} is not a number")
        unnamed = int.__new__(cls, value)
        unnamed._name_ = f"{cls.__name__.upper()}_{value}"
        unnamed._value_ = value
        return unnamed


class Reason(_OpenEnum):
    """Why a call was allowed or denied, numbered as in the API."""

    REASON_UNSPECIFIED = 0
    WITHIN_LIMIT = 1
    OVER_LIMIT = 2
    COST_EXCEEDS_CAPACITY = 3
    KEY_UNKNOWN = 4
    KEY_REVOKED = 5
    KEY_SUSPENDED = 6
    KEY_EXPIRED = 7
    DEGRADED_ALLOWED = 8
    DEGRADED_DENIED = 9


class Source(_OpenEnum):
    """What the decision rests on, numbered as in the API."""

    SOURCE_UNSPECIFIED = 0
    STORE = 1
    POLICY = 2
    DEGRADED = 3


class Origin(Enum):
    """Who decided."""

    SERVICE = "SERVICE"
    """The service answered."""
    CACHE = "CACHE"
    """The client remembered a denial of the service; nothing was sent."""
    FALLBACK = "FALLBACK"
    """The service could not be asked; the client decided by its option `fail_open`."""


class WeighedLimit(NamedTuple):
    """What one limit said of the call."""

    name: str
    limit: int
    """The bucket's capacity or the quota's amount, in tokens."""
    remaining: int
    """Whole tokens left after the call, 0 or more."""
    reset_after: timedelta
    """How long until the limit is untouched again. 0 when it is so now."""
    retry_after: timedelta | None
    """How long until the call fits this limit. None when it fits now, and when it never will."""
    would_deny: bool
    """Whether the call does not fit. Only an enforced limit then denies it."""
    shadow: bool
    """Whether the limit is only tried out."""
    window: timedelta
    """The time in which the limit refills or starts afresh."""

    @classmethod
    def of(cls, message: WeighedLimitMessage, passed: timedelta) -> Self:
        """The limit that MESSAGE describes, with waits shorter by PASSED, none below 0."""
        return cls(
            message.name,
            message.limit,
            message.remaining,
            max(_NO_TIME, _time(message.reset_after) - passed),
            _wait(message, passed),
            message.would_deny,
            message.shadow,
            _time(message.window),
        )


class Decision:
    """Whether a call may go on, and why.

    A view of the service's message, read as far as the caller looks: most callers look at `allowed` alone, and pay for
    no more than that.
    """

    __slots__ = ("_limits", "_message", "_passed", "origin")

    def __init__(self, message: CheckLimitResponse, origin: Origin, passed: timedelta = _NO_TIME) -> None:
        self._message = message
        self._passed = passed
        self._limits: tuple[WeighedLimit, ...] | None = None
        self.origin: Final = origin
        """Who decided."""

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in _TOLD)
        return f"Decision({told})"

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self._message.allowed

    @property
    def reason(self) -> Reason:
        """Why."""
        return Reason(self._message.reason)

    @property
    def source(self) -> Source:
        """What the decision rests on."""
        return Source(self._message.source)

    @property
    def key_id(self) -> str:
        """The key's public id. Empty when the key is unknown."""
        return self._message.key_id

    @property
    def subject(self) -> str:
        """Whom the limits are for. Empty when the key is unknown."""
        return self._message.subject

    @property
    def plan(self) -> str:
        """The key's plan. Empty when the key is unknown."""
        return self._message.plan

    @property
    def limit(self) -> str:
        """The binding limit's name. Empty when no limit was weighed."""
        return self._message.limit

    @property
    def remaining(self) -> int:
        """Whole tokens that the binding limit has left. 0 when no limit was weighed."""
        return self._message.remaining

    @property
    def retry_after(self) -> timedelta | None:
        """How long until the same call fits. None when allowed, and when no wait would help."""
        return _wait(self._message, self._passed)

    @property
    def limits(self) -> tuple[WeighedLimit, ...]:
        """Every limit that was weighed, in the plan's order."""
        if self._limits is None:
            self._limits = tuple([WeighedLimit.of(limit, self._passed) for limit in self._message.limits])
        return self._limits

    @property
    def enforced(self) -> tuple[WeighedLimit, ...]:
        """The weighed limits that can deny."""
        return tuple([limit for limit in self.limits if not limit.shadow])

    @property
    def binding(self) -> WeighedLimit | None:
        """The binding limit. None when no limit was weighed."""
        return next((limit for limit in self.enforced if limit.name == self.limit), None)

    def after(self, passed: timedelta) -> "Decision":
        """What the client tells when it remembered this decision for PASSED: all waits are shorter, none below 0."""
        return Decision(self._message, Origin.CACHE, passed)


_TOLD = ("allowed", "reason", "source", "origin", "key_id", "subject", "plan", "limit", "remaining", "retry_after")

FAILED_OPEN = Decision(
    CheckLimitResponse(allowed=True, reason=CheckLimitResponse.DEGRADED_ALLOWED, source=CheckLimitResponse.DEGRADED),
    Origin.FALLBACK,
)
"""What a call gets when the service cannot be asked and the client fails open."""

FAILED_CLOSED = Decision(
    CheckLimitResponse(reason=CheckLimitResponse.DEGRADED_DENIED, source=CheckLimitResponse.DEGRADED), Origin.FALLBACK
)
"""What a call gets when the service cannot be asked and the client fails closed."""


def _wait(message: CheckLimitResponse | WeighedLimitMessage, passed: timedelta) -> timedelta | None:
    """The `retry_after` of MESSAGE when PASSED of it is over."""
    return max(_NO_TIME, _time(message.retry_after) - passed) if message.HasField("retry_after") else None


def _time(duration: Duration) -> timedelta:
    # Up to the next microsecond, since a wait must not end too early.
    return timedelta(0, duration.seconds, -(-duration.nanos // 1000))
