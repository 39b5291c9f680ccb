"""The status of each descriptor, and how it follows from the results of its buckets."""

from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, NO_ROOM, LimitResult
from ratelimit_service.decision.descriptors.rules import Blocked
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.outcome import UNDECIDED_RETRY_US, without_marks
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.reason import Reason, Source


class DescriptorStatus(NamedTuple):
    """The decision on one descriptor.

    `limit` is the one to report, None when nothing is limited: on a denial the limit that takes longest to be untouched
    again, otherwise the one with the smallest share left. `remaining`: whole tokens left, 0 on a denial and for a debt.
    `reset_us`: microseconds until the limit is untouched again. `wait_us`: microseconds until the same hits fit, 0 when
    they do, NEVER when they never will. `limits` are all that were evaluated, and `results` the result for each.
    `policy` is that of the API key, if the descriptor names a known one.
    """

    allowed: bool
    reason: Reason
    source: Source
    limit: AppliedLimit | None = None
    remaining: int = 0
    reset_us: int = 0
    wait_us: int = 0
    limits: tuple[AppliedLimit, ...] = ()
    results: tuple[LimitResult, ...] = ()
    policy: Policy | None = None


class RequestDecision(NamedTuple):
    """The decision on a request: a status for each descriptor, in order.

    Nothing was charged unless it is allowed, but for descriptors that are charged afterwards.
    """

    allowed: bool
    statuses: tuple[DescriptorStatus, ...]

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same request fits, or None when it was allowed or no wait would help."""
        waits = [status.wait_us for status in self.statuses if not status.allowed]
        return max(waits) if waits and NEVER not in waits else None


_FITS = Reason.WITHIN_LIMIT
_new = tuple.__new__  # a third of what calling the class costs, which is done for every call
_PASSED = DescriptorStatus(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY)


def passed(policy: Policy | None = None) -> DescriptorStatus:
    """The status of a descriptor to which no limit applies."""
    return _PASSED if policy is None else _PASSED._replace(policy=policy)


def refused(reason: Reason, source: Source, policy: Policy | None = None) -> DescriptorStatus:
    """The status of a descriptor that is denied regardless of its buckets."""
    return DescriptorStatus(allowed=False, reason=reason, source=source, wait_us=NEVER, policy=policy)


def undecided() -> DescriptorStatus:
    """The status of a descriptor whose key was not looked up in time, as `decision.outcome.UNDECIDED`."""
    return refused(Reason.DEGRADED_DENIED, Source.DEGRADED)._replace(wait_us=UNDECIDED_RETRY_US)


def uncounted(limit: AppliedLimit, hits: int) -> DescriptorStatus:
    """The status of a descriptor with a limit that has no bucket: unlimited, or blocked."""
    if isinstance(limit.algorithm, Blocked) and limit.enforced and hits > 0:
        return refused(Reason.COST_EXCEEDS_CAPACITY, Source.POLICY)._replace(limit=limit)
    return _PASSED._replace(limit=limit)


def decide_descriptor(
    limits: tuple[AppliedLimit, ...], results: tuple[LimitResult, ...], source: Source, policy: Policy | None
) -> DescriptorStatus:
    """The status of a descriptor by the results of its buckets. Every enforced limit with a wait denies it."""
    if len(limits) == 1 and not results[0].wait_us:  # the common case
        ((remaining, _, reset),) = results
        left = remaining // MICRO if remaining > 0 else 0
        return _new(DescriptorStatus, (True, _FITS, source, limits[0], left, reset, 0, limits, results, policy))
    slowest, longest, wait_us = -1, -1, 0
    for index, (_, wait, reset) in enumerate(results):
        if wait and limits[index].enforced:
            if wait == NO_ROOM:
                return _decide_without_room(limits, results, source, policy)
            if reset > longest:
                slowest, longest = index, reset
            wait_us = NEVER if NEVER in (wait, wait_us) else max(wait, wait_us)
    if slowest >= 0:
        reason = Reason.COST_EXCEEDS_CAPACITY if wait_us == NEVER else Reason.OVER_LIMIT
        denying = limits[slowest]
        return _new(DescriptorStatus, (False, reason, source, denying, 0, longest, wait_us, limits, results, policy))
    tightest = _tightest(limits, results) if len(limits) > 1 else 0
    limit, (remaining, _, reset) = limits[tightest], results[tightest]
    left = max(remaining // MICRO, 0)
    return _new(DescriptorStatus, (True, _FITS, source, limit, left, reset, 0, limits, results, policy))


def _decide_without_room(
    limits: tuple[AppliedLimit, ...], results: tuple[LimitResult, ...], source: Source, policy: Policy | None
) -> DescriptorStatus:
    """Deny what would have needed a new bucket, unless a limit denies it for longer anyway."""
    status = decide_descriptor(limits, without_marks(results), source, policy)
    marked = [limit for limit, result in zip(limits, results, strict=True) if result.wait_us == NO_ROOM]
    if any(limit is status.limit for limit in marked):
        return status._replace(reason=Reason.DEGRADED_DENIED, source=Source.DEGRADED)
    return status


def _tightest(limits: tuple[AppliedLimit, ...], results: tuple[LimitResult, ...]) -> int:
    """The limit with the smallest share left, an enforced one if there is one."""
    tightest, smallest = 0, (True, 2.0)
    for index, limit in enumerate(limits):
        if limit.bucket is not None:
            share = (not limit.enforced, results[index].remaining / limit.bucket.limit.capacity / MICRO)
            if share < smallest:
                tightest, smallest = index, share
    return tightest
