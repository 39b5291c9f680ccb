"""What a caller is told: a decision, and who decided."""

from datetime import timedelta
from enum import Enum, IntEnum
from typing import NamedTuple, Self

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


class WeighedLimit(NamedTuple):  # like Decision, a tuple: a dataclass takes thrice as long to make, on every call
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
    def of(cls, message: WeighedLimitMessage) -> Self:
        """The limit that MESSAGE describes."""
        return cls(
            message.name,
            message.limit,
            message.remaining,
            _time(message.reset_after),
            _time(message.retry_after) if message.HasField("retry_after") else None,
            message.would_deny,
            message.shadow,
            _time(message.window),
        )

    def after(self, passed: timedelta) -> Self:
        """The same with waits shorter by PASSED, none below 0."""
        return self._replace(
            reset_after=max(_NO_TIME, self.reset_after - passed), retry_after=_less(self.retry_after, passed)
        )


class Decision(NamedTuple):
    """Whether a call may go on, and why."""

    allowed: bool
    reason: Reason
    source: Source
    origin: Origin
    key_id: str = ""
    """The key's public id. Empty when the key is unknown."""
    subject: str = ""
    """Whom the limits are for. Empty when the key is unknown."""
    plan: str = ""
    """The key's plan. Empty when the key is unknown."""
    limit: str = ""
    """The binding limit's name. Empty when no limit was weighed."""
    remaining: int = 0
    """Whole tokens that the binding limit has left. 0 when no limit was weighed."""
    retry_after: timedelta | None = None
    """How long until the same call fits. None when allowed, and when no wait would help."""
    limits: tuple[WeighedLimit, ...] = ()
    """Every limit that was weighed, in the plan's order."""

    @classmethod
    def of(cls, message: CheckLimitResponse) -> Self:
        """The service's decision."""
        return cls(
            message.allowed,
            Reason(message.reason),
            Source(message.source),
            Origin.SERVICE,
            message.key_id,
            message.subject,
            message.plan,
            message.limit,
            message.remaining,
            _time(message.retry_after) if message.HasField("retry_after") else None,
            tuple([WeighedLimit.of(limit) for limit in message.limits]),
        )

    def after(self, passed: timedelta) -> Self:
        """What the client tells when it remembered this decision for PASSED."""
        return self._replace(
            origin=Origin.CACHE,
            retry_after=_less(self.retry_after, passed),
            limits=tuple(limit.after(passed) for limit in self.limits),
        )

    @property
    def enforced(self) -> tuple[WeighedLimit, ...]:
        """The weighed limits that can deny."""
        return tuple(limit for limit in self.limits if not limit.shadow)

    @property
    def binding(self) -> WeighedLimit | None:
        """The binding limit. None when no limit was weighed."""
        return next((limit for limit in self.enforced if limit.name == self.limit), None)


FAILED_OPEN = Decision(True, Reason.DEGRADED_ALLOWED, Source.DEGRADED, Origin.FALLBACK)  # noqa: FBT003
"""What a call gets when the service cannot be asked and the client fails open."""

FAILED_CLOSED = Decision(False, Reason.DEGRADED_DENIED, Source.DEGRADED, Origin.FALLBACK)  # noqa: FBT003
"""What a call gets when the service cannot be asked and the client fails closed."""


def _time(duration: Duration) -> timedelta:
    # Up to the next microsecond, since a wait must not end too early.
    return timedelta(0, duration.seconds, -(-duration.nanos // 1000))


def _less(wait: timedelta | None, passed: timedelta) -> timedelta | None:
    return None if wait is None else max(_NO_TIME, wait - passed)
