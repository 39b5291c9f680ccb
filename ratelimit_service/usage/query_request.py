"""What is asked of usage: filters, groups, order; and what is wrong with it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from ratelimit_service.errors import InvalidArgument

MAX_VALUES: Final = 100
"""Maximum values of one filter."""

MAX_TOP: Final = 1_000
"""Maximum groups that are asked for by their order."""


class Dimension(StrEnum):
    """What counts are filtered and grouped by. The value is the name of the field in the protos."""

    KEY = "key"
    SUBJECT = "subject"
    PLAN = "plan"
    RESOURCE = "resource"
    LIMIT = "limit"
    DOMAIN = "domain"
    RULE = "rule"


OF_KEYS: Final = frozenset({Dimension.KEY, Dimension.SUBJECT, Dimension.PLAN, Dimension.RESOURCE})
"""Dimensions of calls with an API key. Others have none of them."""

OF_RULES: Final = frozenset({Dimension.DOMAIN, Dimension.RULE})
"""Dimensions of descriptors that rules decided. Others have none of them."""


class Measure(StrEnum):
    """What is counted. CALLS is ALLOWED and DENIED together; DEGRADED and SHADOW_DENIED are calls among them."""

    CALLS = "calls"
    ALLOWED = "allowed"
    DENIED = "denied"
    COST = "cost"
    SHADOW_DENIED = "shadow_denied"
    DEGRADED = "degraded"


OUTCOMES: Final = frozenset({Measure.ALLOWED, Measure.DENIED, Measure.SHADOW_DENIED, Measure.DEGRADED})
"""The measures that are outcomes of calls."""

LIMIT_MEASURES: Final = frozenset({Measure.DENIED, Measure.SHADOW_DENIED})
"""What is counted by limit."""


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which calls: for each dimension one of these values; a dimension that is absent or empty means any.

    `outcome` leaves only the groups with at least one call of this outcome in the range.
    """

    values: Mapping[Dimension, tuple[str, ...]] = field(default_factory=dict)
    outcome: Measure | None = None

    @classmethod
    def of(cls, outcome: Measure | None = None, **values: str | Collection[str]) -> "UsageFilter":
        """A filter by the names of dimensions: `UsageFilter.of(key=key_id, resource=("a", "b"))`."""
        chosen = {
            Dimension(name): (value,) if isinstance(value, str) else tuple(value) for name, value in values.items()
        }
        return cls(chosen, outcome)

    def get(self, dimension: Dimension) -> tuple[str, ...]:
        """The values of a dimension. Empty means any."""
        return self.values.get(dimension, ())

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """The dimensions that are filtered by."""
        return frozenset(dimension for dimension, values in self.values.items() if values)


@dataclass(frozen=True, slots=True)
class UsageRequest:
    """A question about usage.

    `start_us`, `end_us` and `step_us` are as in `choose_range`, the step 0 for one row a group. `group_by` is a row for
    each combination of values that was counted, all together if it is empty. `top` is how many groups at most, those
    with the highest `order_by`; 0 means all, in the order of their values. `others`, with `top`, adds the sum of all
    groups that are not among them. `among` leaves only calls that have these dimensions: with KEY, those with a key.
    """

    where: UsageFilter = UsageFilter()
    group_by: tuple[Dimension, ...] = ()
    start_us: int | None = None
    end_us: int | None = None
    step_us: int = 0
    top: int = 0
    order_by: Measure = Measure.CALLS
    others: bool = False
    among: frozenset[Dimension] = frozenset()

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """The dimensions that the calls have."""
        return self.where.dimensions.union(self.group_by, self.among)

    @property
    def by_limit(self) -> bool:
        """Whether the counts are those by limit, which are denials alone."""
        return Dimension.LIMIT in self.dimensions

    def check(self) -> None:
        """Raise InvalidArgument unless it can be answered. Times and step are checked by `choose_range`."""
        for dimension, values in self.where.values.items():
            _check_values(f"filter.{_PLURALS[dimension]}", values)
        if len(set(self.group_by)) != len(self.group_by):
            raise InvalidArgument.of("group_by", "names a dimension twice; remove one")
        if self.dimensions & OF_KEYS and self.dimensions & OF_RULES:
            raise InvalidArgument.of(
                "group_by",
                "and filter name key, subject, plan or resource together with domain or rule; no call has both",
            )
        outcome = self.where.outcome
        if outcome is not None and (outcome not in OUTCOMES or (self.by_limit and outcome not in LIMIT_MEASURES)):
            raise InvalidArgument.of("filter.outcome", "is not counted by limit; use DENIED or SHADOW_DENIED")
        if not 0 <= self.top <= MAX_TOP:
            raise InvalidArgument.of("top", f"is {self.top}; it must be between 1 and {MAX_TOP}, or 0 for all")
        if self.top and not self.group_by:
            raise InvalidArgument.of("top", "needs group_by: without it there is one group")
        if self.others and (not self.top or outcome is not None):
            raise InvalidArgument.of("others", "needs top, and no filter.outcome")

    def narrowed(self, groups: Sequence[tuple[str, ...]]) -> "UsageRequest":
        """The question about these groups alone, and possibly others made of the same values."""
        values = dict(self.where.values)
        for position, dimension in enumerate(self.group_by):
            values[dimension] = tuple(dict.fromkeys(group[position] for group in groups))
        return replace(self, where=UsageFilter(values))

    def together(self) -> "UsageRequest":
        """The question about all groups together: their sum."""
        among = {Dimension.PLAN} if self.dimensions & OF_KEYS else set()
        among |= {Dimension.DOMAIN} if self.dimensions & OF_RULES else set()
        among |= {Dimension.LIMIT} if self.by_limit else set()
        return replace(self, group_by=(), among=frozenset(among), top=0, others=False)


_PLURALS: Final = {
    Dimension.KEY: "key_ids",
    Dimension.SUBJECT: "subjects",
    Dimension.PLAN: "plans",
    Dimension.RESOURCE: "resources",
    Dimension.LIMIT: "limits",
    Dimension.DOMAIN: "domains",
    Dimension.RULE: "rules",
}


def _check_values(path: str, values: Sequence[str]) -> None:
    if len(values) > MAX_VALUES:
        raise InvalidArgument.of(path, f"has {len(values)} values; at most {MAX_VALUES} are allowed")
    for position, value in enumerate(values):
        if "\0" in value or value != value.encode("utf-8", "replace").decode():
            raise InvalidArgument.of(f"{path}[{position}]", "has characters that no name has; remove them")
