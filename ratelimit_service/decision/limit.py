"""Limits: the rules that a decision evaluates. A Limit is always valid: constructing an invalid one raises."""

import re
from dataclasses import dataclass, replace
from enum import Enum
from math import gcd
from typing import TypeAlias

from ratelimit_service.decision.text import check_text, quoted
from ratelimit_service.errors import InvalidArgument

MICRO = 1_000_000
"""Micro-tokens in a token: amounts are counted in whole micro-tokens. Also microseconds in a second."""

EXACT = 2**53
"""Whole numbers below this are exact in Lua, which computes with doubles."""

MAX_TOKENS = EXACT // MICRO
"""The largest capacity or amount, in tokens: 9,007,199,254."""

MAX_CONCURRENCY = 1_000_000
"""The most slots of a concurrency limit."""

MIN_HOLD_US = 1 * MICRO
MAX_HOLD_US = 3_600 * MICRO
"""For which one call may be held, unless it is extended."""

MAX_PERIOD_US = 31 * 86_400 * MICRO
MIN_PERIOD_US = 1_000
MAX_RESOURCE_BYTES = 256
_ANY_WORD = "* "
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""The syntax of the names of limits and plans."""


class Mode(Enum):
    """Whether going over a limit denies the call."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Counting(Enum):
    """What a call takes from a limit."""

    COST = "cost"
    """Its cost in tokens."""
    CALLS = "calls"
    """One token, whatever its cost."""


class Window(Enum):
    """A calendar window in UTC. Weeks begin on Monday."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Level(Enum):
    """Where a limit was set. A key's takes precedence over its subject's, and that over the plan's."""

    PLAN = "plan"
    SUBJECT = "subject"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Holds up to `capacity` tokens and gains `refill_tokens` every `refill_period_us` microseconds, continuously.

    Bounds: capacity 1 to MAX_TOKENS, refill_tokens at least 1, refill_period_us 1,000 to 31 days; the refill in lowest
    terms must be exact below 2^53. Raises InvalidArgument otherwise.
    """

    capacity: int
    refill_tokens: int
    refill_period_us: int

    def __post_init__(self) -> None:
        _check_tokens("token_bucket.capacity", self.capacity)
        _check_tokens("token_bucket.refill_tokens", self.refill_tokens)
        if not MIN_PERIOD_US <= self.refill_period_us <= MAX_PERIOD_US:
            raise InvalidArgument.of(
                "token_bucket.refill_period",
                f"is {self.refill_period_us / MICRO:g}s; it must be between 0.001s and 31 days (2678400s)",
            )
        numerator, denominator = self.rate
        if numerator * denominator >= EXACT:
            raise InvalidArgument.of(
                "token_bucket.refill_tokens",
                f"is {self.refill_tokens} per {self.refill_period_us} microseconds, for which the arithmetic would "
                "exceed 2^53; choose rounder numbers or a shorter period",
            )
        if not _is_exact(self.capacity, self.rate):
            raise InvalidArgument.of(
                "token_bucket.capacity",
                f"is {self.capacity}, which takes so long to refill that the arithmetic would exceed 2^53; "
                "choose a smaller capacity or a faster refill",
            )

    @property
    def rate(self) -> tuple[int, int]:
        """Micro-tokens gained per microseconds, in lowest terms."""
        gained = self.refill_tokens * MICRO
        shared = gcd(gained, self.refill_period_us)
        return gained // shared, self.refill_period_us // shared


@dataclass(frozen=True, slots=True)
class Quota:
    """`amount` tokens per calendar window, 1 to MAX_TOKENS. Raises InvalidArgument otherwise."""

    amount: int
    window: Window

    def __post_init__(self) -> None:
        _check_tokens("quota.amount", self.amount)


@dataclass(frozen=True, slots=True)
class Concurrency:
    """`max` calls at once. Each takes a slot until it is settled, or its hold ends: `default_hold_us` if it names none.

    Bounds: max 1 to MAX_CONCURRENCY, default_hold_us MIN_HOLD_US to MAX_HOLD_US. Raises InvalidArgument otherwise.
    """

    max: int
    default_hold_us: int

    def __post_init__(self) -> None:
        if not 1 <= self.max <= MAX_CONCURRENCY:
            raise InvalidArgument.of("concurrency.max", f"is {self.max}; it must be between 1 and {MAX_CONCURRENCY}")
        check_hold("concurrency.default_hold", self.default_hold_us)


Algorithm: TypeAlias = TokenBucket | Quota | Concurrency
"""How a limit counts."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule: a token bucket, a quota or a number of calls at once, for the resources that its pattern matches.

    `resource` is an exact name, a prefix ending in `*`, or `*`; one that begins with `* ` is a pattern for what follows
    the first word, as `* /search*` for a path with any method. At most 256 bytes without control characters.

    `overdraft` is how many tokens the limit may go below zero by charges that are made afterwards, when their cost is
    known. If it is set, be it 0, calls are denied as long as less than one token is left, peeks too. Capacity or amount
    and overdraft are MAX_TOKENS at most together. Raises InvalidArgument with the invalid field.
    """

    name: str
    algorithm: Algorithm
    resource: str = "*"
    mode: Mode = Mode.ENFORCE
    counts: Counting = Counting.COST
    overdraft: int | None = None

    def __post_init__(self) -> None:
        check_overdraft(self.algorithm, self.overdraft)
        if isinstance(self.algorithm, Concurrency) and self.counts is not Counting.COST:
            raise InvalidArgument.of(
                "counts", "is set for a number of calls at once, which counts nothing else; leave it out"
            )
        if not NAME.fullmatch(self.name):
            raise InvalidArgument.of(
                "name", f"is {quoted(self.name)}; use 1 to 64 of a-z 0-9 _ - . and begin with a letter or digit"
            )
        check_resource("resource", self.resource)
        if "*" in self.resource.removeprefix(_ANY_WORD)[:-1]:
            raise InvalidArgument.of(
                "resource", f"is {self.resource!r}; a * is allowed only at its end, and as its first word"
            )

    @property
    def capacity(self) -> int:
        """The bucket's capacity or the quota's amount, in tokens; of a concurrency limit its slots."""
        return _capacity_of(self.algorithm)

    def with_algorithm(self, algorithm: Algorithm) -> "Limit":
        """The same with another amount or rate, and as much of its overdraft as fits beside it; all, if it was all."""
        most, overdraft = most_overdraft(algorithm), self.overdraft
        if overdraft is not None:
            overdraft = most if self.is_unbounded else min(overdraft, most)
        return replace(self, algorithm=algorithm, overdraft=overdraft)

    @property
    def is_unbounded(self) -> bool:
        """Whether it may owe as much as is counted exactly."""
        return is_unbounded(self.algorithm, self.overdraft)

    def tokens_of(self, cost: int) -> int:
        """The tokens that a call of this COST takes: 0 for a peek.

        A refund (a negative cost) leaves a limit that counts calls as it is: the call was made. No cost takes a slot of
        a concurrency limit: only a reservation does.
        """
        if isinstance(self.algorithm, Concurrency):
            return 0
        return cost if self.counts is Counting.COST else int(cost > 0)

    def reserved_of(self, estimate: int) -> int:
        """The tokens that a reservation of this ESTIMATE takes: one call and one slot, whatever its cost."""
        is_call = self.counts is Counting.CALLS or isinstance(self.algorithm, Concurrency)
        return 1 if is_call else estimate

    def matches(self, resource: str) -> bool:
        """Whether the limit applies to this resource."""
        pattern = self.resource
        if pattern.startswith(_ANY_WORD):
            pattern = pattern[len(_ANY_WORD) :]
            _, blank, resource = resource.partition(" ")
            if not blank:
                return False
        return resource.startswith(pattern[:-1]) if pattern.endswith("*") else resource == pattern


def most_overdraft(algorithm: Algorithm) -> int:
    """The largest overdraft beside this capacity or amount, in tokens: what is counted exactly."""
    return MAX_TOKENS - _capacity_of(algorithm)


def is_unbounded(algorithm: Algorithm, overdraft: int | None) -> bool:
    """Whether an overdraft is that of a quota which may owe as much as is counted exactly."""
    return isinstance(algorithm, Quota) and overdraft == most_overdraft(algorithm)


def _capacity_of(algorithm: Algorithm) -> int:
    if isinstance(algorithm, Concurrency):
        return algorithm.max
    return algorithm.capacity if isinstance(algorithm, TokenBucket) else algorithm.amount


def check_overdraft(algorithm: Algorithm, overdraft: int | None) -> None:
    """Raise InvalidArgument (field `overdraft`) unless a limit may go so many tokens below zero; None: it does not."""
    if overdraft is None:
        return
    if isinstance(algorithm, Concurrency):
        raise InvalidArgument.of("overdraft", "is set for a number of calls at once, which owes nothing; leave it out")
    capacity, most = _capacity_of(algorithm), most_overdraft(algorithm)
    if not 0 <= overdraft <= most:
        raise InvalidArgument.of("overdraft", f"is {overdraft}; beside {capacity} it must be between 0 and {most}")
    if isinstance(algorithm, TokenBucket) and not _is_exact(capacity + overdraft, algorithm.rate):
        raise InvalidArgument.of(
            "overdraft",
            f"is {overdraft}, which takes so long to refill that the arithmetic would exceed 2^53; choose a "
            "smaller one or a faster refill",
        )


def _is_exact(tokens: int, rate: tuple[int, int]) -> bool:
    """Whether the time in which so many tokens are gained is exact in doubles."""
    numerator, denominator = rate
    return -(-tokens * MICRO // numerator) * denominator < EXACT


def check_hold(field: str, hold_us: int) -> None:
    """Raise InvalidArgument unless a call may be held for so long."""
    if not MIN_HOLD_US <= hold_us <= MAX_HOLD_US:
        raise InvalidArgument.of(field, f"is {hold_us / MICRO:g}s; it must be between 1s and 1 hour (3600s)")


def check_resource(field: str, resource: str) -> None:
    """Raise InvalidArgument unless RESOURCE is at most 256 bytes of UTF-8 without control characters."""
    check_text(field, resource, MAX_RESOURCE_BYTES)


def clip_resource(resource: str) -> str:
    """RESOURCE cut to the length that patterns can match, with `?` for each character that no pattern may contain.

    For resources that a client makes up, such as a path: one that is too long must not turn its limit into an error,
    on which a proxy that fails open lets the call through.
    """
    resource = resource[:MAX_RESOURCE_BYTES]  # each character has a byte at least; the rest may be 64 KiB
    if resource.isascii() and resource.isprintable():
        return resource
    printable = "".join(character if character.isprintable() else "?" for character in resource)
    return printable.encode("utf-8", "replace")[:MAX_RESOURCE_BYTES].decode("utf-8", "ignore")


def _check_tokens(field: str, tokens: int) -> None:
    if not 1 <= tokens <= MAX_TOKENS:
        raise InvalidArgument.of(field, f"is {tokens}; it must be between 1 and {MAX_TOKENS}")
