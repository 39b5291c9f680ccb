"""Audit events as pages show them: what was done, to what, and the old and new value of each field."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ratelimit_service.console import formats
from ratelimit_service.decision.limit import Limit
from ratelimit_service.management.audit import AuditEvent, AuditFilter, AuditService
from ratelimit_service.management.documents import limit_from_document
from ratelimit_service.management.paging import Paging

_SHOWN: Final = 8
_MAX_VALUE: Final = 200

_VERBS: Final = {
    "key.create": "Key made",
    "key.update": "Key changed",
    "key.rotate": "Secret rotated",
    "key.suspend": "Key suspended",
    "key.resume": "Key resumed",
    "key.revoke": "Key revoked",
    "plan.create": "Plan made",
    "plan.update": "Plan changed",
    "plan.rollback": "Plan rolled back",
    "plan.delete": "Plan deleted",
    "override.set": "Override set",
    "override.delete": "Override ended",
    "rules.replace": "Rules replaced",
    "rules.delete": "Rules deleted",
    "token.create": "Token made",
    "token.revoke": "Token revoked",
    "enforcement.off": "Limits turned off",
    "enforcement.on": "Limits turned on",
    "alert.test": "Test message sent",
}
ACTIONS: Final = tuple(_VERBS.items())
"""Every action that is recorded, with its words."""

_NAMES: Final = {"expire_time": "ends", "previous_secret_expire_time": "earlier secret ends"}
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "keys": ("keys",),
    "plans": ("plans",),
    "subjects": ("subject",),
    "domains": ("rules", "domain"),
}
_KINDS: Final = {"plan": "plan", "rules": "plan", "override": "override", "key": "key", "token": "key"}


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field with its old and new value in words. None stands for a value that there is not, or is not recorded."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One event. `kind` chooses its mark: plan, override or key. `path` is the page of its target, if it has one."""

    event_id: int
    time_us: int
    actor: str
    action: str
    what: str
    target: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    kind: str
    fields: tuple[FieldChange, ...]


async def changes_of(audit: AuditService, *targets: str) -> list[Change]:
    """Read the newest changes of several targets. Raises ServiceError."""
    pages = await asyncio.gather(
        *(audit.list(Paging(page_size=_SHOWN), AuditFilter(target=target)) for target in targets)
    )
    events = sorted((event for page in pages for event in page.items), key=lambda event: -event.event_id)
    return [change_of(event) for event in events[:_SHOWN]]


def change_of(audited: AuditEvent) -> Change:
    """Describe an event."""
    event = audited.event
    noun, _, name = event.target.partition("/")
    version = event.detail.get("version")
    what = _VERBS.get(event.action, event.action)
    return Change(
        event_id=audited.event_id,
        time_us=event.time_us,
        actor=event.actor,
        action=event.action,
        what=f"{what}, v{version}" if version and event.action.startswith(("plan.", "rules.")) else what,
        target=event.target,
        path=_PATHS.get(noun, ()) + ((name,) if noun in {"keys", "plans"} else ()),
        query={"name": name} if noun in {"subjects", "domains"} else {},
        kind=_KINDS.get(event.action.partition(".")[0], "key"),
        fields=tuple(_fields(event.previous, event.detail)),
    )


def _fields(previous: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterable[FieldChange]:
    for name in (*previous, *(name for name in detail if name not in previous)):
        old, new = previous.get(name), detail.get(name)
        if name == "version" or old == new:
            continue
        if name in {"limits", "labels"}:
            yield from _entries(limits_by_name(old), limits_by_name(new), _limit_words if name == "limits" else _words)
        elif name == "limit":
            yield _limit(old, new)
        else:
            words = _time_words if name.endswith("_time") else _words
            yield FieldChange(_NAMES.get(name, name.replace("_", " ")), words(old), words(new))


def _entries(
    old: Mapping[str, Any], new: Mapping[str, Any], words: Callable[[object], str | None]
) -> Iterable[FieldChange]:
    for name in (*old, *(name for name in new if name not in old)):
        if old.get(name) != new.get(name):
            yield FieldChange(name, words(old.get(name)), words(new.get(name)))


def limits_by_name(limits: object) -> Mapping[str, Any]:
    """Limits by their names: events of earlier versions have a list of them."""
    if isinstance(limits, Mapping):
        return limits
    listed = limits if isinstance(limits, list) else []
    return {str(limit["name"]): limit for limit in listed if isinstance(limit, Mapping) and "name" in limit}


def _limit(old: object, new: object) -> FieldChange:
    named = new if new is not None else old
    name = named.get("name", "limit") if isinstance(named, Mapping) else str(named)
    return FieldChange(str(name), _limit_words(old), _limit_words(new))


def _limit_words(document: object) -> str | None:
    if not isinstance(document, Mapping):
        return None
    try:
        limit = limit_from_document(document)
    except Exception:  # noqa: BLE001  an old or foreign document is shown as it is
        return _words(document)
    return limit_words(limit)


def limit_words(limit: Limit) -> str:
    """What a limit allows, for what, and whether it is in shadow, in words."""
    words = formats.allows(limit)
    if limit.resource != "*":
        words += f" for {limit.resource}"
    return words + (", in shadow" if limit.mode.value == "shadow" else "")


def _time_words(value: object) -> str | None:
    """A time as audit events have it: `2026-11-25T18:54:41.157166Z`. An empty one stands for never."""
    if value == "":
        return "never"
    words = _words(value)
    return f"{words[:16].replace('T', ' ')} UTC" if words and _TIME.match(words) else words


def _words(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value or "empty"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"
