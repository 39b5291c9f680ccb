"""What a draft of a plan would have refused: counted calls replayed, for the page that edits the plan."""

import asyncio
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console.charts import Span
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.csv_text import write_csv
from ratelimit_service.decision.limit import Limit
from ratelimit_service.errors import Unavailable
from ratelimit_service.usage.replay import BinEffect, Effect, LimitEffect
from ratelimit_service.usage.simulation import MAX_TOP, Simulation, SimulationRequest

_SECONDS: Final = 10.0
"""How long a page waits. A longer replay is for the command line."""

_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class SubjectEffect:
    """What changes for a subject, over all its keys that are listed."""

    subject: str
    keys: int
    effect: Effect

    @property
    def first_time(self) -> bool:
        """Whether it would be refused for the first time in the range, at best."""
        return self.effect.denied == 0 and self.effect.best > 0

    @property
    def is_relieved(self) -> bool:
        """Whether less would be refused, whatever the timing."""
        return self.effect.worst < self.effect.denied


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A replay as the page shows it. `everyone` are the subjects with a change, `subjects` the first of them.

    `others` are the calls of all that is not in `subjects`, `more` how many.

    Of the others only calls and what was counted are known: bounds of keys that share a bucket do not add up.
    """

    span: Span
    found: Simulation
    everyone: Sequence[SubjectEffect]
    subjects: Sequence[SubjectEffect]
    others: Effect
    more: int

    @property
    def seconds(self) -> float:
        """The length of a point of the chart."""
        return self.found.step_us / 1_000_000

    @property
    def most(self) -> int:
        """The most calls that a limit refused or would have: the scale of the ranges."""
        return max((max(one.effect.denied, one.effect.worst) for one in self.found.limits), default=0) or 1

    @property
    def points(self) -> Sequence[BinEffect]:
        """The points of the chart, without a last one that is not over yet."""
        points = self.found.points
        whole = [point for point in points if point.start_us + self.found.step_us <= self.found.end_us]
        return whole or points

    @property
    def main_limit(self) -> LimitEffect | None:
        """The enforced limit with the largest rise, if there is a rise."""
        enforced = [one for one in self.found.limits if not one.shadow]
        largest = max(enforced, key=lambda one: one.effect.best - one.effect.denied, default=None)
        return largest if largest is not None and largest.effect.best > largest.effect.denied else None


def csv_of(effects: Sequence[SubjectEffect]) -> str:
    """Who would be refused, as a file: a line for each subject. No cell is a formula to a spreadsheet."""
    file = io.StringIO()
    write_csv(file, _csv_rows(effects))
    return file.getvalue()


def _csv_rows(effects: Sequence[SubjectEffect]) -> Iterator[Sequence[object]]:
    yield "subject", "keys", "calls", "refused_counted", "refused_best", "refused_worst", "first_time"
    for one in effects:
        effect = one.effect
        first = "yes" if one.first_time else "no"
        yield one.subject, one.keys, effect.calls, effect.denied, effect.best, effect.worst, first


async def what_if(visit: Visit, plan: str, limits: Sequence[Limit], span: Span) -> Section[WhatIf]:
    """Replay the last hours or days, for as long as a page may take. One replay runs at a time in a process."""
    return await visit.section(_replayed(visit, plan, limits, span))


async def _replayed(visit: Visit, plan: str, limits: Sequence[Limit], span: Span) -> WhatIf:
    request = SimulationRequest(plan, limits, start_us=visit.now_us - span.length_us, top=MAX_TOP)
    try:
        async with asyncio.timeout(_SECONDS):
            found = await visit.services.simulations.simulate(request)
    except TimeoutError:
        raise Unavailable(
            f"the replay takes more than {_SECONDS:.0f} s; choose a shorter time, or use the command line",
            reason="SIMULATION_TOO_LONG",
        ) from None
    by_subject: Mapping[str, list[Effect]] = defaultdict(list)
    for key in found.keys:
        by_subject[key.subject].append(key.effect)
    subjects = [SubjectEffect(name, len(those), sum(those, Effect())) for name, those in by_subject.items()]
    subjects.sort(key=lambda one: (-abs(one.effect.worst - one.effect.denied), one.subject))
    shown = subjects[:_SHOWN]
    listed = sum((one.effect for one in shown), Effect())
    total = found.effect
    others = Effect(
        total.calls - listed.calls,
        total.denied - listed.denied,
    )
    return WhatIf(span, found, subjects, shown, others, found.subjects - len(shown))
