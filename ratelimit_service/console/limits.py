"""Limits as pages show them: what each level says, which one is in force, and what is left of it now."""

from asyncio import gather
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ratelimit_service.decision.charge import LimitResult
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.explanation import Explanation
from ratelimit_service.decision.limit import MICRO, Level, Limit, Mode, TokenBucket
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import ServiceError

_EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one level says of a limit. `expires_us` is None for what does not expire."""

    limit: Limit
    in_force: bool
    expires_us: int | None


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit by name: what is in force, what is left of it, and what each level says.

    `left` is in tokens, None where it is not known. `full_us` is in microseconds, 0 when the bucket is untouched.
    `applies` says whether the limit is for the resource that was asked for.
    """

    limit: Limit
    level: Level
    applies: bool
    left: float | None
    full_us: int
    plan: Cell | None
    subject: Cell | None
    key: Cell | None

    @property
    def is_shadow(self) -> bool:
        """Whether it refuses nothing."""
        return self.limit.mode is Mode.SHADOW

    @property
    def is_bucket(self) -> bool:
        """Whether it is a token bucket, and not a quota."""
        return isinstance(self.limit.algorithm, TokenBucket)

    @property
    def capacity(self) -> int:
        """What it holds at most, in tokens."""
        return self.limit.capacity

    @property
    def share(self) -> float:
        """The share that is left, 0 to 1."""
        return 0 if self.left is None else max(0.0, min(1.0, self.left / self.limit.capacity))


@dataclass(frozen=True, slots=True)
class LimitsNow:
    """The decision that a call would get now, and every limit of its key. `decision` charged nothing."""

    decision: Decision
    rows: tuple[LimitRow, ...]
    cost: int

    @property
    def binding(self) -> LimitRow | None:
        """The limit that determines the decision."""
        if self.decision.binding < 0:
            return None
        name = self.decision.rules[self.decision.binding].limit.name
        return next((row for row in self.rows if row.limit.name == name), None)


async def limits_now(engine: DecisionEngine, check: Check, overrides: Mapping[Level, Iterable[Override]]) -> LimitsNow:
    """Ask the engine what a call would get, and what is left of every limit. Nothing is charged. Raises ServiceError.

    `check` names the key by its id. `overrides` are those of the key and its subject: they say when each ends.
    """
    asked, peek = await gather(engine.explain(check), engine.explain(check._replace(cost=0)))
    results = _results(peek)
    others = (engine.explain(check._replace(resource=resource, cost=0)) for resource in _others(peek))
    for explanation in await gather(*others):
        for name, result in _results(explanation).items():
            results.setdefault(name, result)
    ends = {
        (level, override.limit.name): override.expires_us for level, those in overrides.items() for override in those
    }
    applying = {rule.limit.name for rule in peek.selection.rules}
    return LimitsNow(asked.decision, tuple(_rows(asked, results, applying, ends)), check.cost)


def not_expired(overrides: Iterable[Override], now_us: int) -> list[Override]:
    """The overrides that are in force at NOW_US."""
    return [each for each in overrides if each.expires_us is None or each.expires_us > now_us]


def _others(explanation: Explanation) -> list[str]:
    """For each limit of other resources, a resource that it is for: the engine reads the limits of one at a time."""
    policy = explanation.policy
    if policy is None or policy.refusal is not None:
        return []
    selected = {rule.limit.name for rule in explanation.selection.rules}
    return sorted({rule.limit.resource.removesuffix("*") for rule in policy.rules if rule.limit.name not in selected})


def _results(explanation: Explanation) -> dict[str, LimitResult]:
    decision = explanation.decision
    return {rule.limit.name: result for rule, result in zip(decision.rules, decision.results, strict=True)}


def _rows(
    explanation: Explanation,
    results: dict[str, LimitResult],
    applying: set[str],
    ends: dict[tuple[Level, str], int | None],
) -> Iterable[LimitRow]:
    by_name: dict[str, dict[Level, Cell]] = {}
    for limit, level, why_not in explanation.considered:
        cells = by_name.setdefault(limit.name, {})
        if why_not != _EXPIRED:
            cells[level] = Cell(limit, not why_not, ends.get((level, limit.name)))
    for name, cells in by_name.items():
        for level, cell in cells.items():
            if cell.in_force:
                result = results.get(name)
                yield LimitRow(
                    limit=cell.limit,
                    level=level,
                    applies=name in applying,
                    left=None if result is None else result.remaining / MICRO,
                    full_us=0 if result is None else result.reset_us,
                    plan=cells.get(Level.PLAN),
                    subject=cells.get(Level.SUBJECT),
                    key=cells.get(Level.KEY),
                )


def violations_of(error: ServiceError, names: dict[str, str]) -> dict[str, str]:
    """The errors of a form by the names of its inputs. NAMES maps the ends of fields' paths to inputs."""
    found: dict[str, str] = {}
    for violation in getattr(error, "violations", ()):
        for end, name in names.items():
            field = violation.field.partition("[")[0]
            if field == end or field.endswith(f".{end}"):
                found.setdefault(name, violation.description)
    return found
