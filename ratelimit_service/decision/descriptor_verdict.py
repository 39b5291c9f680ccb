"""From what the buckets said to the answer for each descriptor."""

from typing import NamedTuple

from ratelimit_service.decision.charge import NEVER, Weighed
from ratelimit_service.decision.decision import Reason, Source
from ratelimit_service.decision.domain_rules import Blocked, Unlimited
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.rule_tree import Applied

_ABSURD = 2.0  # more than any share that can be left


class Counted(NamedTuple):
    """A limit that was asked of its bucket, and what that said."""

    limit: Applied
    weighed: Weighed


class DescriptorStatus(NamedTuple):
    """The answer for one descriptor.

    `limit` is the one to report, None when nothing is limited: on a denial the limit that takes longest to be untouched
    again, otherwise the one with the smallest share left. `remaining`: whole tokens left, 0 on a denial. `reset_us`:
    microseconds until the limit is untouched again. `wait_us`: microseconds until the same hits fit, 0 when they do,
    NEVER when they never will. `counted` are all limits that were weighed. `policy` is that of the API key, if the
    descriptor names a known one.
    """

    allowed: bool
    reason: Reason
    source: Source
    limit: Applied | None = None
    remaining: int = 0
    reset_us: int = 0
    wait_us: int = 0
    counted: tuple[Counted, ...] = ()
    policy: Policy | None = None

    @property
    def unlimited(self) -> bool:
        """Whether the rules say that there is no limit, which is more than that they say nothing."""
        return self.limit is not None and isinstance(self.limit.algorithm, Unlimited)


class DescriptorVerdict(NamedTuple):
    """The answer to a request: a status for each descriptor, in order. Nothing was charged unless it is allowed."""

    allowed: bool
    statuses: tuple[DescriptorStatus, ...]

    @property
    def retry_after_us(self) -> int | None:
        """Microseconds until the same request fits, or None when it was allowed or no wait would help."""
        waits = [status.wait_us for status in self.statuses if not status.allowed]
        return max(waits) if waits and NEVER not in waits else None


def passed(source: Source, policy: Policy | None = None) -> DescriptorStatus:
    """The status of a descriptor that nothing limits."""
    return DescriptorStatus(allowed=True, reason=Reason.WITHIN_LIMIT, source=source, policy=policy)


def refused(reason: Reason, source: Source, policy: Policy | None = None) -> DescriptorStatus:
    """The status of a descriptor that is denied whatever its buckets say."""
    return DescriptorStatus(allowed=False, reason=reason, source=source, wait_us=NEVER, policy=policy)


def uncounted(limit: Applied, hits: int) -> DescriptorStatus:
    """The status of a descriptor with a limit that has no bucket: unlimited, or blocked."""
    if isinstance(limit.algorithm, Blocked) and limit.enforced and hits > 0:
        return DescriptorStatus(
            allowed=False, reason=Reason.COST_EXCEEDS_CAPACITY, source=Source.POLICY, limit=limit, wait_us=NEVER
        )
    return DescriptorStatus(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY, limit=limit)


def judge_descriptor(counted: tuple[Counted, ...], source: Source, policy: Policy | None) -> DescriptorStatus:
    """The status of a descriptor by what its buckets said: it is denied by each enforced limit that must wait."""
    denying = [one for one in counted if one.limit.enforced and one.weighed.wait_us]
    if not denying:
        return _allowed(counted, source, policy)
    limit, slowest = max(denying, key=lambda one: one.weighed.reset_us)
    waits = [one.weighed.wait_us for one in denying]
    wait_us = NEVER if NEVER in waits else max(waits)
    reason = Reason.COST_EXCEEDS_CAPACITY if wait_us == NEVER else Reason.OVER_LIMIT
    return DescriptorStatus(False, reason, source, limit, 0, slowest.reset_us, wait_us, counted, policy)  # noqa: FBT003 positional: built for every call


def _allowed(counted: tuple[Counted, ...], source: Source, policy: Policy | None) -> DescriptorStatus:
    """Enforced limits before those in shadow, and then the smallest share left."""
    reported, smallest = counted[0], _ABSURD * 2
    for one in counted:
        share = one.weighed.remaining / _capacity(one.limit) / MICRO
        if not one.limit.enforced:
            share += _ABSURD
        if share < smallest:
            reported, smallest = one, share
    limit, weighed = reported
    remaining = weighed.remaining // MICRO
    return DescriptorStatus(True, Reason.WITHIN_LIMIT, source, limit, remaining, weighed.reset_us, 0, counted, policy)  # noqa: FBT003


def _capacity(limit: Applied) -> int:
    if limit.bucket is None:
        raise ValueError(f"limit {limit.name!r} has no bucket, so nothing can have been counted")
    return limit.bucket.limit.capacity
