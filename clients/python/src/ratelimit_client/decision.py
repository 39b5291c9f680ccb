"""The decision on a call, and where it came from."""

from collections.abc import Iterable
from datetime import timedelta
from enum import Enum, IntEnum
from typing import Final, NamedTuple, Self

from google.protobuf.duration_pb2 import Duration

from ._gen.ratelimit.v1.limit_pb2 import LimitResult as LimitResultMessage
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from .error import RateLimitError

_ZERO = timedelta(0)


class _OpenEnum(IntEnum):
    """An enum that accepts the values of a newer server, so that the client need not be updated first."""

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
    """What a decision is based on, numbered as in the API."""

    SOURCE_UNSPECIFIED = 0
    STORE = 1
    POLICY = 2
    DEGRADED = 3
    UNENFORCED = 4
    GRANT = 5
    MEMORY = 6


class Origin(Enum):
    """Who decided."""

    SERVICE = "SERVICE"
    """The service responded."""
    CACHE = "CACHE"
    """The client had cached a denial of the service; nothing was sent."""
    FALLBACK = "FALLBACK"
    """The service failed; the client decided by its option `fail_open`."""
    GRANT = "GRANT"
    """The client allowed the call by a unit that the service had granted to it; nothing was sent for it."""


class LimitResult(NamedTuple):
    """The result of evaluating one limit."""

    name: str
    """The limit's name."""
    limit: int
    """The bucket's capacity or the quota's amount, in tokens."""
    remaining: int
    """Whole tokens left after this call, negative only for a limit with an overdraft."""
    reset_after: timedelta
    """How long until the limit is back to its full amount. 0 when it is now."""
    retry_after: timedelta | None
    """How long until a call of this cost fits. None when it fits now, and when it never will."""
    would_deny: bool
    """Whether the call does not fit. Only an enforced limit then denies it."""
    shadow: bool
    """Whether the limit is only reported, not enforced."""
    window: timedelta
    """The time in which the limit refills or starts over."""


class Decision:
    """Whether a call may proceed, and why.

    A view of the service's message that converts what is read: most callers read `allowed` alone, and pay for no more.
    """

    __slots__ = ("_elapsed", "_limits", "_message", "failure", "origin")

    def __init__(
        self,
        message: CheckLimitResponse,
        origin: Origin,
        elapsed: timedelta = _ZERO,
        failure: RateLimitError | None = None,
    ) -> None:
        """All waits of MESSAGE are shortened by the time ELAPSED since it arrived, none below 0."""
        self._message = message
        self._elapsed = elapsed
        self._limits: tuple[LimitResult, ...] | None = None
        self.origin: Final = origin
        """Who decided."""
        self.failure: Final = failure
        """Why the service failed. None unless the origin is FALLBACK."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in _IN_REPR)
        return f"Decision({fields})"

    @property
    def allowed(self) -> bool:
        """Whether the call may proceed."""
        return self._message.allowed

    @property
    def reason(self) -> Reason:
        """Why."""
        return Reason(self._message.reason)

    @property
    def source(self) -> Source:
        """What the decision is based on."""
        return Source(self._message.source)

    @property
    def degraded(self) -> bool:
        """Whether the limits' state was not available: the client decided, or the service did without its store."""
        return self.source is Source.DEGRADED

    @property
    def key_id(self) -> str:
        """The key's public id. Empty when the key is unknown."""
        return self._message.key_id

    @property
    def subject(self) -> str:
        """The owner of the limits. Empty when the key is unknown."""
        return self._message.subject

    @property
    def plan(self) -> str:
        """The key's plan. Empty when the key is unknown."""
        return self._message.plan

    @property
    def limit(self) -> str:
        """The binding limit's name. Empty when no limit was evaluated."""
        return self._message.limit

    @property
    def remaining(self) -> int:
        """Whole tokens that the binding limit has left after this call. 0 when no limit was evaluated."""
        return self._message.remaining

    @property
    def retry_after(self) -> timedelta | None:
        """How long until the same call fits every limit, if no other call comes first.

        None when the call was allowed, and when waiting would not help.
        """
        return _retry_after(self._message, self._elapsed)

    @property
    def limits(self) -> tuple[LimitResult, ...]:
        """The result of every limit that was evaluated, in the plan's order."""
        if self._limits is None:
            self._limits = limit_results(self._message.limits, self._elapsed)
        return self._limits


_IN_REPR = (
    *(
        "allowed",
        "reason",
        "source",
        "degraded",
        "origin",
        "key_id",
        "subject",
        "plan",
        "limit",
        "remaining",
        "retry_after",
    ),
    "failure",
)


def reservation_id_of(decision: Decision) -> str:
    """The id with which a reservation is settled, which belongs to the reservation, not the decision. Empty: none."""
    return decision._message.reservation_id  # noqa: SLF001  of this module


def limit_results(messages: Iterable[LimitResultMessage], elapsed: timedelta = _ZERO) -> tuple[LimitResult, ...]:
    """The results of limits, with all waits shortened by the time ELAPSED since they arrived, none below 0."""
    return tuple([_limit_result(message, elapsed) for message in messages])


def _limit_result(message: LimitResultMessage, elapsed: timedelta) -> LimitResult:
    return LimitResult(
        message.name,
        message.limit,
        message.remaining,
        max(_ZERO, _timedelta(message.reset_after) - elapsed),
        _retry_after(message, elapsed),
        message.would_deny,
        message.shadow,
        _timedelta(message.window),
    )


def _retry_after(message: CheckLimitResponse | LimitResultMessage, elapsed: timedelta) -> timedelta | None:
    """What is left of the `retry_after` of MESSAGE after the time ELAPSED."""
    return max(_ZERO, _timedelta(message.retry_after) - elapsed) if message.HasField("retry_after") else None


def _timedelta(duration: Duration) -> timedelta:
    # Rounded up to the next microsecond, since a wait must not end too early.
    return timedelta(0, duration.seconds, -(-duration.nanos // 1000))
