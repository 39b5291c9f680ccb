"""What happened in the time of a chart: changes and faults, each with the letter that chart and list share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ratelimit_service.console.changes import Change
from ratelimit_service.console.charts import Bin, Series

MAX_MARKS: Final = 8
"""Events that get a letter, the newest."""

_MARKED: Final = frozenset(
    {
        *("plan.update", "plan.create", "plan.delete", "override.set", "override.delete", "rules.replace"),
        *("rules.delete", "key.suspend", "key.resume", "key.revoke", "key.rotate"),
    }
)


@dataclass(frozen=True, slots=True)
class Mark:
    """An event. `change` is None for a fault, which has `degraded` decisions until `end_us`. `at` is 0 to 1."""

    letter: str
    kind: str
    time_us: int
    at: float
    change: Change | None = None
    end_us: int = 0
    degraded: int = 0


def marks(changes: Iterable[Change], series: Series) -> list[Mark]:
    """The newest events within the chart, the newest first, lettered from the oldest on."""
    length = max(series.end_us - series.start_us, 1)

    def mark(kind: str, time_us: int, change: Change | None = None, end_us: int = 0, degraded: int = 0) -> Mark:
        at = min(1.0, (time_us - series.start_us) / length)
        return Mark("", kind, time_us, at, change, end_us, degraded)

    found = [
        mark(change.kind, change.time_us, change)
        for change in changes
        if change.action in _MARKED and change.time_us >= series.start_us
    ]
    found += [mark("fault", start_us, None, end_us, degraded) for start_us, end_us, degraded in _faults(series.bins)]
    newest = sorted(found, key=lambda event: event.time_us)[-MAX_MARKS:]
    return [replace(event, letter=chr(ord("A") + position)) for position, event in enumerate(newest)][::-1]


def letters(found: Sequence[Mark]) -> Mapping[int, str]:
    """The letters of changes by the ids of their events."""
    return {mark.change.event_id: mark.letter for mark in found if mark.change is not None}


def _faults(bins: Sequence[Bin]) -> Iterable[tuple[int, int, int]]:
    """Start, end and number of degraded decisions, of bins without a gap between them."""
    run: list[Bin] = []
    for each in (*bins, None):
        if each is not None and each.counts.degraded:
            run.append(each)
        elif run:
            yield run[0].start_us, run[-1].end_us, sum(one.counts.degraded for one in run)
            run = []
