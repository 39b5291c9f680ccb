"""What has to be changed on a server so that it has what files describe."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.cli.configuration.item import Item, Kind, target_of
from ratelimit_service.cli.configuration.server import Configured, has_expired
from ratelimit_service.cli.errors import CommandError, Exit

_ORDER: Final = list(Kind)


@dataclass(frozen=True)
class Change:
    """From `old`, None for what is created, to `new`, None for what is removed."""

    old: Item | None
    new: Item | None

    @property
    def item(self) -> Item:
        """The item as it is to be, or was."""
        item = self.new or self.old
        assert item is not None  # noqa: S101  one of them is
        return item

    @property
    def name(self) -> str:
        """The name of what changes."""
        return self.item.name

    @property
    def place(self) -> str:
        """The file and line of what is wanted, empty for what is removed."""
        return self.item.place

    @property
    def fields(self) -> Sequence[str]:
        """The fields that differ, of a change of something that there is."""
        return _different(self.old.message, self.new.message) if self.old and self.new else ()

    @property
    def line(self) -> str:
        """The change in one line: `+ plans/team`, `~ plans/free: limits`, `- domains/shop`."""
        if self.new is None:
            return f"- {self.name}"
        return f"~ {self.name}: {', '.join(self.fields)}" if self.old else f"+ {self.name}"


@dataclass(frozen=True)
class Comparison:
    """The changes in the order in which they are made; what is on the server alone; and what is left as it is, and why.

    Of a kind of which the files have nothing, nothing is in `only_there`: who keeps plans in files may not keep keys.
    `unpruned` says so of each such kind.
    """

    changes: Sequence[Change]
    only_there: Sequence[Change]
    notes: Sequence[str]
    unpruned: Sequence[str]
    same: int


def compare(wanted: Iterable[Item], there: Configured, now: datetime) -> Comparison:
    """Compare files with a server at the time NOW. Raises CommandError for what no change can achieve.

    WANTED is in the order of kinds.
    """
    changes: list[Change] = []
    notes: list[str] = []
    named: set[str] = set()
    keys = {name for name, item in there.items.items() if item.kind is Kind.KEY}
    kinds: set[Kind] = set()
    same = 0
    for item in wanted:
        kinds.add(item.kind)
        named.add(item.name)
        old = there.items.get(item.name)
        note = _obstacle(item, old, there, now) or _without_key(item, keys)
        if note:
            notes.append(f"{item.place}: {item.name} {note}")
            continue
        if item.kind is Kind.KEY:
            keys.add(item.name)
        new = _completed(item, old)
        if old is not None and old.message == new.message:
            same += 1
        else:
            changes.append(Change(old, new))
    extra = [Change(item, None) for name, item in there.items.items() if name not in named]
    only_there = [change for change in extra if change.item.kind in kinds]
    only_there.sort(key=lambda change: -_ORDER.index(change.item.kind))
    return Comparison(changes, only_there, notes, _unpruned(extra, kinds), same)


def check_removed_plans(changes: Iterable[Change], there: Configured) -> None:
    """Raise CommandError for a plan that is removed although keys are on it after all CHANGES: no server removes it."""
    removed: set[str] = set()
    on = {item.name: item.key.plan for item in there.items.values() if item.kind is Kind.KEY}
    for change in changes:
        if change.item.kind is Kind.KEY and change.new:
            on[change.name] = change.new.key.plan
        elif change.item.kind is Kind.KEY:
            del on[change.name]
        elif change.item.kind is Kind.PLAN and change.new is None:
            removed.add(change.item.plan.name)
    left = Counter(plan for plan in on.values() if plan in removed)
    if left:
        lines = (
            f"plans/{plan}: is in no file, but stays the plan of {count:,} keys, such as "
            f"{next(key for key in on if on[key] == plan)}; keep its document, or move or remove these keys"
            for plan, count in sorted(left.items())
        )
        raise CommandError(Exit.REFUSED, *lines, "nothing was changed")


def _obstacle(item: Item, old: Item | None, there: Configured, now: datetime) -> str:
    """Why an item is left as it is, empty if it is not. Raises CommandError for a subject that would change."""
    if item.kind is Kind.KEY:
        if item.name in there.revoked:
            return "is revoked on the server, permanently; leave it out"
        if old is None and has_expired(item, now):
            return "has expired, and is not created"
        if old is not None and old.key.subject != item.key.subject:
            raise CommandError.usage(
                f"{item.place}: subject is {item.key.subject!r}, but {item.name} has {old.key.subject!r}; the subject "
                "of a key never changes, so give the key another key_id"
            )
    if item.kind is Kind.OVERRIDE:
        if target_of(item.set_for) in there.revoked:
            return "is for a key that is revoked; leave it out"
        if has_expired(item, now):
            return "has expired, and is not set"
    return ""


def _without_key(item: Item, keys: Collection[str]) -> str:
    """Why an override is left out whose key is not among KEYS, those that there are or will be; empty for others."""
    if item.kind is not Kind.OVERRIDE or not item.set_for.HasField("key_id") or target_of(item.set_for) in keys:
        return ""
    return "is for a key that is neither on the server nor created now, and is not set"


def _completed(item: Item, old: Item | None) -> Item:
    """ITEM with what it leaves as it is: the state of a key that does not set one."""
    if item.kind is not Kind.KEY or item.key.state:
        return item
    key = Key()
    key.CopyFrom(item.key)
    key.state = old.key.state if old else Key.ACTIVE
    return Item(item.kind, key, item.etag, item.place)


def _unpruned(extra: Iterable[Change], kinds: set[Kind]) -> list[str]:
    counts: dict[Kind, int] = {}
    for change in extra:
        if change.item.kind not in kinds:
            counts[change.item.kind] = counts.get(change.item.kind, 0) + 1
    return [
        f"the server has {count:,} of kind {kind}, and the files none; they are left as they are"
        for kind, count in counts.items()
    ]


def _different(old: Message, new: Message) -> Sequence[str]:
    before, after = _values(old), _values(new)
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _values(message: Message) -> Mapping[str, object]:
    return {field.name: value for field, value in message.ListFields()}
