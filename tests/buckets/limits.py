"""Limits that tests draw from."""

from dataclasses import replace

from hypothesis import strategies as st

from ratelimit_service.decision.limit import (
    MAX_TOKENS,
    MIN_HOLD_US,
    Concurrency,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)
from ratelimit_service.errors import InvalidArgument

_AMOUNTS = st.one_of(st.integers(1, 10), st.integers(1, 1_000), st.integers(1, MAX_TOKENS))
_PERIODS_US = st.one_of(
    st.sampled_from([1_000, 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000, 31 * 86_400_000_000]),
    st.integers(1_000, 10_000_000),
    st.integers(1_000, 31 * 86_400_000_000),
)


@st.composite
def token_buckets(draw: st.DrawFn) -> TokenBucket:
    """Every token bucket that is valid, small ones more often than large ones."""
    bucket = None
    while bucket is None:
        try:
            bucket = TokenBucket(draw(_AMOUNTS), draw(_AMOUNTS), draw(_PERIODS_US))
        except InvalidArgument:
            bucket = None
    return bucket


def tight_buckets() -> st.SearchStrategy[TokenBucket]:
    """Buckets of a few tokens that refill within milliseconds, most of them at odd rates: where rounding shows."""
    return st.builds(TokenBucket, st.integers(1, 3), st.integers(1, 3), st.integers(1_000, 1_013))


def quotas() -> st.SearchStrategy[Quota]:
    """Every quota."""
    return st.builds(Quota, _AMOUNTS, st.sampled_from(Window))


def concurrency() -> st.SearchStrategy[Concurrency]:
    """A few calls at once."""
    return st.builds(Concurrency, st.integers(1, 4), st.just(MIN_HOLD_US))


@st.composite
def limits(draw: st.DrawFn, *, overdrafts: bool = True, slots: bool = False) -> Limit:
    """Limits of every kind; one in four is a shadow, and half of them have an overdraft unless that is not wanted.

    SLOTS: whether there are concurrency limits among them.
    """
    kinds = [token_buckets(), tight_buckets(), quotas()]
    algorithm = draw(st.one_of(*kinds, concurrency()) if slots else st.one_of(*kinds))
    mode = draw(st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW]))
    limit = Limit("limit", algorithm, mode=mode)
    if not overdrafts or isinstance(algorithm, Concurrency):
        return limit
    most = MAX_TOKENS - limit.capacity
    overdraft = draw(
        st.one_of(st.none(), st.none(), st.none(), st.just(0), st.integers(0, 30), st.integers(0, most), st.just(most))
    )
    try:
        return replace(limit, overdraft=overdraft)
    except InvalidArgument:  # it would take too long to refill
        return limit
