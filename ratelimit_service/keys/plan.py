"""Plans: named, versioned sets of limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ratelimit_service.decision.limit import NAME, Limit
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import FieldViolation, InvalidArgument, NotFound
from ratelimit_service.keys.etag import etag_of

MAX_LIMITS = 16
"""Limits of one plan."""


class PlanDraft(TypedDict):
    """What a new plan is made from."""

    name: str
    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str


class PlanChanges(TypedDict, total=False):
    """The fields of a plan to change, those only. `limits` replaces them all."""

    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a plan. Times are microseconds since 1970 UTC, `updated_us` that of the version."""

    name: str
    version: int
    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str
    created_us: int
    updated_us: int

    @property
    def target(self) -> str:
        """The plan's name in audit events and errors."""
        return f"plans/{self.name}"

    @property
    def etag(self) -> str:
        """Changes with every version, and is another one for another plan that takes the same name later."""
        return etag_of("plan", self.name, self.created_us, self.version)


def check_plan_name(field: str, name: str) -> None:
    """Raise InvalidArgument unless NAME can be a plan's."""
    if not name:
        raise InvalidArgument.of(field, "is empty; name a plan")
    if not NAME.fullmatch(name):
        raise InvalidArgument.of(
            field, f"is {name[:80]!r}; use 1 to 64 of a-z 0-9 _ - . and begin with a letter or digit"
        )


def check_limits(limits: Sequence[Limit]) -> None:
    """Raise InvalidArgument (field `limits`) unless there are 1 to 16 with different names."""
    if not 1 <= len(limits) <= MAX_LIMITS:
        raise InvalidArgument.of("limits", f"has {len(limits)} entries; a plan has 1 to {MAX_LIMITS} limits")
    seen: set[str] = set()
    twice: list[FieldViolation] = []
    for position, limit in enumerate(limits):
        if limit.name in seen:
            twice.append(
                FieldViolation(f"limits[{position}].name", f"is {limit.name!r} like that of a limit before; rename one")
            )
        seen.add(limit.name)
    if twice:
        raise InvalidArgument(*twice)


def plan_not_found(name: str, version: int = 0) -> NotFound:
    """Return the error for a plan that does not exist, or has no such version."""
    what = f"plan {name}" if version == 0 else f"version {version} of plan {name}"
    return NotFound(f"there is no {what}", reason="PLAN_NOT_FOUND", metadata={"plan": name})
