"""Which change, if any, may be named as the cause of refusals.

A change is named only if refusals by a limit that it changed began, or doubled, within CAUSE_US after it. Otherwise a
page gives the time and no cause.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console.changes import limits_by_name
from ratelimit_service.management.audit import AuditEvent
from ratelimit_service.usage.query_range import MINUTE

CAUSE_US: Final = 10 * MINUTE
"""For how long after a change a rise of refusals is taken as its effect, in microseconds."""

BEFORE_US: Final = 10 * MINUTE
"""The time before a change that the rise is compared with, in microseconds."""

_AMOUNTS: Final = {"token_bucket": ("capacity", "refill_tokens"), "quota": ("amount",)}
_LAST: Final = 3
_MIN_REFUSALS: Final = 10
"""Refusals in the time after the change below which nothing has begun: that much is noise."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A change of a limit: by `plan`, or of the subject or key that an override is for; the others are empty."""

    event_id: int
    time_us: int
    limit: str
    plan: str = ""
    subject: str = ""
    key_id: str = ""
    old: object = None
    """The override before the change and the one since, as documents. None: what the plan says applied, or applies."""
    new: object = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A change and the rise that followed it: refusals `began`, or else doubled, `after_us` after it."""

    suspect: Suspect
    began: bool
    after_us: int


def suspects(event: AuditEvent) -> list[Suspect]:
    """The limits that an event has changed and may refuse more by, in the order of their names."""
    action, target = event.event.action, event.event.target
    noun, _, name = target.partition("/")
    if action == "plan.update":
        old, new = limits_by_name(event.event.previous.get("limits")), limits_by_name(event.event.detail.get("limits"))
        changed = sorted(limit for limit in old.keys() | new.keys() if not loosens(old.get(limit), new.get(limit)))
        return [Suspect(event.event_id, event.event.time_us, limit, plan=name) for limit in changed]
    if action in {"override.set", "override.delete"}:
        limit = event.event.detail.get("limit") or event.event.previous.get("limit")
        named = limit.get("name") if isinstance(limit, Mapping) else limit
        field = {"subjects": "subject", "keys": "key_id"}.get(noun)
        if isinstance(named, str) and field:
            was, now = event.event.previous.get("limit"), event.event.detail.get("limit")
            found = Suspect(event.event_id, event.event.time_us, named, old=was, new=now, **{field: name})
            return [] if was and now and loosens(was, now) else [found]
    return []


def loosens(old: object, new: object) -> bool:
    """Whether a limit, as a document, lets through all that it did before. False if that is not known for certain."""
    if old == new or not isinstance(new, Mapping):
        return True
    if not isinstance(old, Mapping):
        return False
    if new.get("mode") == "shadow":
        return True
    if old.get("mode") != new.get("mode") or old.get("resource") != new.get("resource"):
        return False
    return any(_at_least(old.get(kind), new.get(kind), amounts) for kind, amounts in _AMOUNTS.items())


def _at_least(old: object, new: object, amounts: Collection[str]) -> bool:
    """Whether each amount is as high as before, and all else the same."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or old.keys() != new.keys():
        return False
    return all(new[name] >= old[name] if name in amounts else new[name] == old[name] for name in old)


def find_cause(suspect: Suspect, denied: Mapping[int, int], complete_until_us: int) -> Cause | None:
    """Return the rise that followed a change, or None.

    DENIED are the refusals by the limit of the suspect, by the start of each minute that has some.
    """
    minute = suspect.time_us // MINUTE * MINUTE
    before = [denied.get(start, 0) for start in range(minute - BEFORE_US, minute, MINUTE)]
    last = min(minute + CAUSE_US, complete_until_us - MINUTE)
    after = {start: denied.get(start, 0) for start in range(minute, last + 1, MINUTE)}
    # What rose already in the last minutes before the change is no effect of it.
    mean = max(sum(before) / len(before), sum(before[-_LAST:]) / _LAST)
    if not after or sum(after.values()) < _MIN_REFUSALS:
        return None
    # What goes up for a minute and down again has neither begun nor doubled: the rest counts as well.
    for start, denials in after.items():
        rest = [count for at, count in after.items() if at >= start]
        risen = denials > 0 if not mean else denials >= 2 * mean
        if risen and sum(rest) / len(rest) >= max(2 * mean, 1e-9):
            end_us = max(0, start + MINUTE - suspect.time_us)
            return Cause(suspect, began=mean == 0, after_us=min(end_us, CAUSE_US))
    return None
