"""What a request of descriptors counts for: each series once, however many of its descriptors have it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ratelimit_service.decision.charge import Counted, LimitResult
from ratelimit_service.decision.descriptors.outcome import DescriptorStatus
from ratelimit_service.decision.descriptors.rules import Blocked
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.reason import Source
from ratelimit_service.decision.usage import Series


class Part(NamedTuple):
    """A descriptor's part in its request: what it counts for, its hits, and the indexes of its buckets."""

    series: Series
    hits: int
    positions: Sequence[int]


def counted(parts: Sequence[Part]) -> tuple[Counted, ...]:
    """What the charge of a request counts for. Peeks count for nothing."""
    if len(parts) == 1:
        series, hits, _ = parts[0]
        return (Counted(series, hits, 1 if hits > 0 else 0),) if hits and series.encoded else ()
    merged: dict[bytes, Counted] = {}
    for series, hits, own in parts:
        if hits and series.encoded:
            _, cost, calls, positions = merged.get(series.encoded) or Counted(series, 0, 0, ())
            merged[series.encoded] = Counted(series, cost + hits, 1 if hits > 0 else calls, (*(positions or ()), *own))
    return tuple(merged.values())


class Decided(NamedTuple):
    """A descriptor with its status: what it counts for, and its hits."""

    series: Series
    hits: int
    status: DescriptorStatus


def counts_of(decided: Sequence[Decided], *, afterwards: bool = False) -> Iterator[tuple[Series, list[int]]]:
    """The counts of each series of a request that no script counted, in the order of `usage.Counts`, flattened.

    What is charged AFTERWARDS counts as allowed.
    """
    allowed = afterwards or all(each.status.allowed for each in decided)
    merged: dict[bytes, tuple[Series, list[int]]] = {}
    for series, hits, status in decided:
        if not hits or not series.encoded:
            continue
        _, counts = merged.setdefault(series.encoded, (series, [0] * 5))
        if allowed:
            counts[1] += hits
        if hits < 0:
            continue
        counts[0], counts[2] = int(allowed), int(not allowed)
        counts[4] = max(counts[4], int(status.source is Source.DEGRADED))
        if afterwards:
            continue
        pairs = list(_denials(status))
        counts.extend([0] * (5 + 2 * len(pairs) - len(counts)))
        for number, (denied, shadow_denied) in enumerate(pairs):
            counts[5 + 2 * number] |= denied
            counts[6 + 2 * number] |= shadow_denied
            counts[3] |= shadow_denied
    yield from merged.values()


def _denials(status: DescriptorStatus) -> Iterator[tuple[bool, bool]]:
    """For each limit of a status whether it denied the descriptor, and whether it would have."""
    if status.results:
        for limit, result in zip(status.limits, status.results, strict=True):
            yield _denial(limit, result)
    elif not status.allowed:
        yield True, False
    elif status.limit is not None and isinstance(status.limit.algorithm, Blocked):
        yield False, not status.limit.enforced


def _denial(limit: AppliedLimit, result: LimitResult) -> tuple[bool, bool]:
    return bool(result.wait_us) and limit.enforced, bool(result.wait_us) and not limit.enforced
