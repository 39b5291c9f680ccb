"""Policies: everything needed to decide for one key, compiled once and used for every call of that key."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import EXACT, MIN_HOLD_US, Concurrency, Level, Limit, Mode, check_resource
from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import KeyState, OnStoreFailure, PolicyRecord, SecretHash
from ratelimit_service.decision.usage import NO_SERIES, Series

NO_EXPIRY = EXACT
"""In place of a time: valid until a change invalidates it."""


class Validity:
    """How long a cached policy or rules may be used; shared by everything that is computed from them.

    Valid from `since_us` on and before `expires_us`, in microseconds since 1970 UTC, or with NO_EXPIRY at any time,
    unless it was invalidated earlier because something newer is in force. `used`: whether it was used since it was
    made, or since this was last set to False.
    """

    __slots__ = ("expires_us", "since_us", "used")

    def __init__(self, expires_us: int = NO_EXPIRY, since_us: int = 0) -> None:
        self.expires_us = expires_us
        self.since_us = since_us
        self.used = False

    def invalidate(self) -> None:
        """Make it expired from now on."""
        self.expires_us = 0

    def is_current(self, clock: Clock) -> bool:
        """Whether it has neither expired nor been invalidated, and the clock has not been set back before it began."""
        return self.expires_us == NO_EXPIRY or self.since_us <= clock.now_us() < self.expires_us


PARTITIONS = 256
"""Number of partitions of the bucket store. Changing it loses the state of every bucket."""

_MAX_RESOURCES = 64  # resources for which a policy caches its selection
_REFUSALS = {KeyState.REVOKED: Reason.KEY_REVOKED, KeyState.SUSPENDED: Reason.KEY_SUSPENDED}


class Rule(NamedTuple):
    """A limit that is in force, where it was set, and the bucket that it is counted in."""

    limit: Limit
    level: Level
    bucket: Bucket
    enforced: bool


class Considered(NamedTuple):
    """A limit that was set for a key. `why_not` is empty when it is in force."""

    limit: Limit
    level: Level
    why_not: str


OPEN_RESERVATIONS: Final = "open_reservations"
"""The name of the limit on a subject's open reservations, which no other limit may have."""

MAX_OPEN: Final = 10_000
"""The default of RATELIMIT_MAX_OPEN_RESERVATIONS."""


class Selection(NamedTuple):
    """The rules for one resource, in the plan's order, their buckets in that order, and what its calls count for.

    `default_hold_us`: for how long its calls take slots of concurrency limits, 0 if they take none.
    """

    rules: tuple[Rule, ...]
    buckets: tuple[Bucket, ...]
    series: Series = NO_SERIES
    default_hold_us: int = 0


_NONE_SELECTED: Final = Selection((), ())


class Policy:
    """One key's policy. It does not change, but for what is cached in it.

    In force as long as its `validity` is current; then it has to be compiled again. `refusal` is the reason for which
    all its calls are denied, or None, and `refusal_source` what that is based on.
    Compiled with `off_until_us`, until when no limit refuses (0: limits refuse), all its rules are shadow limits, no
    call is denied because a store is down or a row cannot be read, and it is valid until then. `source` is what its
    decisions by the shared buckets are based on. `has_slots`: whether there are concurrency limits among its rules.
    MAX_OPEN is how many reservations of its subject may be open.

    A worker has a hundred thousand of these. So what calls rarely need is computed from the `record` when they do, and
    what is cached of a policy is in it: `digests`, of the secrets that were verified under it, and `identity`, the
    fields of CheckLimitResponse that identify its key; both empty at first.
    """

    __slots__ = (
        "_held_selections",
        "_max_open",
        "_selected",
        "_selection",
        "_selections",
        "digests",
        "has_slots",
        "identity",
        "on_store_failure",
        "plan",
        "record",
        "refusal",
        "refusal_source",
        "rules",
        "source",
        "validity",
    )

    def __init__(self, record: PolicyRecord, now_us: int, off_until_us: int = 0, *, max_open: int = MAX_OPEN) -> None:
        off = now_us < off_until_us
        self.record = record
        self.digests: tuple[bytes, ...] = ()
        self.identity = b""
        self.plan = record.plan
        self.source = Source.UNENFORCED if off else Source.STORE
        self.on_store_failure = OnStoreFailure.ALLOW if off else record.on_store_failure
        since_us, until_us = _period(record, now_us)
        self.validity = Validity(min(until_us, off_until_us) if off else until_us, since_us)
        self.refusal: Reason | None = _REFUSALS.get(record.state)
        if self.refusal is None and _has_passed(record.expires_us, now_us):
            self.refusal = Reason.KEY_EXPIRED
        self.refusal_source = Source.POLICY
        if self.refusal is None and record.is_denied and not off:
            self.refusal, self.refusal_source = Reason.DEGRADED_DENIED, Source.DEGRADED
        self.rules: tuple[Rule, ...] = tuple(
            _rule(record, replace(limit, mode=Mode.SHADOW) if off else limit, level)
            for limit, level in _in_force(record, now_us)
        )
        self.has_slots = any(map(_has_slots, self.rules))
        self._selected: str | None = None  # most keys are used with one resource, which needs no dict
        self._selection = _NONE_SELECTED
        self._selections: dict[str, Selection] | None = None
        self._max_open = max_open
        self._held_selections: dict[tuple[str, bool], Selection] | None = None  # most keys have none

    @property
    def key_id(self) -> str:
        """The id of its key."""
        return self.record.key_id

    @property
    def subject(self) -> str:
        """Who the key is of."""
        return self.record.subject

    @property
    def plan_version(self) -> int:
        """The version of its plan."""
        return self.record.plan_version

    @property
    def hides_secrets(self) -> bool:
        """Whether the key may have another secret, which could not be read."""
        return self.record.hides_secrets

    @property
    def secrets(self) -> tuple[SecretHash, ...]:
        """The secrets that have not expired. What has passed since `validity` began is what had passed then."""
        since_us = self.validity.since_us
        return tuple([secret for secret in self.record.secrets if not _has_passed(secret.expires_us, since_us)])

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Every limit of plan, subject and key, with why it is not in force."""
        return tuple(_consider(self.record, self.validity.since_us))

    def select_held(self, resource: str, *, reserved: bool) -> Selection:
        """The rules for RESOURCE of a call that may be held: with those on calls at once.

        RESERVED: whether it names a hold itself; then that on open reservations comes last. Otherwise it takes slots if
        an enforced rule wants it to: shadow rules alone would make reservations that nobody knows of.

        Raises InvalidArgument when it is too long or has control characters.
        """
        known = self._held_selections
        if known is None:
            known = self._held_selections = {}
        selection = known.get((resource, reserved))
        if selection is None:
            check_resource("resource", resource)
            rules = tuple(rule for rule in self.rules if rule.limit.matches(resource))
            holds = [
                rule.limit.algorithm.default_hold_us
                for rule in rules
                if rule.enforced and isinstance(rule.limit.algorithm, Concurrency)
            ]
            if reserved:
                mode = Mode.SHADOW if self.source is Source.UNENFORCED else Mode.ENFORCE
                rules = (*rules, _open_rule(self.subject, self._max_open, mode))
            elif not holds:
                return self.select(resource)
            selection = Selection(rules, _buckets(rules), self._series(resource, rules), max(holds, default=0))
            if len(known) >= _MAX_RESOURCES:
                known.clear()
            known[resource, reserved] = selection
        return selection

    def _series(self, resource: str, rules: Sequence[Rule]) -> Series:
        reasons = [self.refusal.name] if self.refusal else [rule.limit.name for rule in rules]
        return Series.of_key(self.key_id, resource, self.subject, self.plan, reasons)

    def select(self, resource: str) -> Selection:
        """The rules for RESOURCE that count tokens: not those on calls at once.

        Raises InvalidArgument when it is too long or has control characters.
        """
        if resource == self._selected:
            return self._selection
        selection = None if self._selections is None else self._selections.get(resource)
        if selection is None:
            check_resource("resource", resource)
            rules = self._for_resource(resource)
            buckets = self._selection.buckets if rules == self._selection.rules else _buckets(rules)
            selection = Selection(rules, buckets, self._series(resource, rules))
            self._keep(resource, selection)
        return selection

    def _keep(self, resource: str, selection: Selection) -> None:
        if self._selected is None:
            self._selected, self._selection = resource, selection
            return
        if self._selections is None:
            self._selections = {}
        elif len(self._selections) >= _MAX_RESOURCES - 1:  # callers choose the names: do not keep them all
            self._selections.clear()
        self._selections[resource] = selection

    def _for_resource(self, resource: str) -> tuple[Rule, ...]:
        """Those of `rules` that apply: the same tuple if all do."""
        rules = tuple([rule for rule in self.rules if rule.limit.matches(resource) and not _has_slots(rule)])
        return self.rules if len(rules) == len(self.rules) else rules


def _buckets(rules: Sequence[Rule]) -> tuple[Bucket, ...]:
    return tuple(rule.bucket for rule in rules)


def _in_force(record: PolicyRecord, now_us: int) -> list[tuple[Limit, Level]]:
    """The limits that are in force, in the order of `_consider`."""
    if not (record.subject_overrides or record.key_overrides):  # most keys have none
        return [(limit, Level.PLAN) for limit in record.limits]
    return [(limit, level) for limit, level, why_not in _consider(record, now_us) if not why_not]


def _consider(record: PolicyRecord, now_us: int) -> list[Considered]:
    """Every limit of plan, subject and key: by name in the plan's order, then by level from the plan to the key."""
    set_by: dict[str, list[tuple[Limit, Level, int | None]]] = {limit.name: [] for limit in record.limits}
    for limit in record.limits:
        set_by[limit.name].append((limit, Level.PLAN, None))
    for level, overrides in ((Level.SUBJECT, record.subject_overrides), (Level.KEY, record.key_overrides)):
        for override in overrides:
            set_by.setdefault(override.limit.name, []).append((override.limit, level, override.expires_us))
    considered = []
    for candidates in set_by.values():
        in_force = [level for _, level, expires_us in candidates if not _has_passed(expires_us, now_us)]
        for limit, level, expires_us in candidates:
            if _has_passed(expires_us, now_us):
                why_not = "expired"
            else:
                why_not = "" if level is in_force[-1] else f"overridden by {in_force[-1].value}"
            considered.append(Considered(limit, level, why_not))
    return considered


def _rule(record: PolicyRecord, limit: Limit, level: Level) -> Rule:
    return Rule(limit, level, _bucket(record, limit, level), limit.mode is Mode.ENFORCE)


def _bucket(record: PolicyRecord, limit: Limit, level: Level) -> Bucket:
    """The bucket of a limit. Named for its owner and the limit alone, so that it outlives plans and their versions.

    The name is a digest: no caller's string gets into the bucket store.
    """
    owner = f"key\0{record.key_id}" if level is Level.KEY else f"subject\0{record.subject}"
    return _bucket_of(owner, record.subject, limit)


def _bucket_of(owner: str, subject: str, limit: Limit) -> Bucket:
    name = blake2b(f"{owner}\0{limit.name}".encode(), digest_size=12).hexdigest()
    partition = int.from_bytes(blake2b(subject.encode(), digest_size=8).digest()) % PARTITIONS
    return Bucket(name, partition, limit)


def _has_slots(rule: Rule) -> bool:
    return isinstance(rule.limit.algorithm, Concurrency)


@lru_cache(4)  # one for all policies, so that responses have it encoded once
def _open_limit(max_open: int, mode: Mode) -> Limit:
    return Limit(OPEN_RESERVATIONS, Concurrency(max_open, MIN_HOLD_US), mode=mode)


def _open_rule(subject: str, max_open: int, mode: Mode) -> Rule:
    limit = _open_limit(max_open, mode)
    return Rule(limit, Level.SUBJECT, _bucket_of(f"open\0{subject}", subject, limit), mode is Mode.ENFORCE)


def _has_passed(expires_us: int | None, now_us: int) -> bool:
    return expires_us is not None and expires_us <= now_us


def _period(record: PolicyRecord, now_us: int) -> tuple[int, int]:
    """From when until when what is in force NOW is: between two times at which something of the record expires."""
    overrides = (*record.subject_overrides, *record.key_overrides)
    times = [record.expires_us, *record.secret_expiries, *(override.expires_us for override in overrides)]
    since_us = max((time for time in times if time is not None and time <= now_us), default=0)
    last = NO_EXPIRY - 1 if since_us else NO_EXPIRY  # with NO_EXPIRY the clock is not asked
    return since_us, min((time for time in times if time is not None and time > now_us), default=last)
