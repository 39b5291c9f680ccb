"""What usage is counted of, and how counts are written down: the format that the store and all its readers share.

Counts are kept by series. The store has them in a hash for each minute: the field is the series, the value its counts.
The reasons are in docs/adr/0011-usage-counting.md.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SEPARATOR = "\x1f"
"""Between the parts of a series' field; no part has it."""

MINUTE_SEPARATOR = "\x1e"
"""After the minute that a field may begin with."""

OTHER = "other"
"""The resource that a key's calls count under, beyond the first MAX_RESOURCES resources of a UTC day."""

MAX_RESOURCES = 100
"""Resources of a key that are counted by name, in a UTC day."""

BLOCKED = "BLOCKED"
"""The limit that a rule's denials are counted under when the rule blocks: it has no bucket."""

_KEY, _RULE = "K", "R"
_SEPARATOR = SEPARATOR.encode()
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEY_PARTS, _RULE_PARTS = 5, 3


_MAX_SHORT = 0xFFFF  # bytes of a MessagePack string with a length of 16 bits
_SHORT, _SHORT_HEAD = b"\xda", 3
_LONG, _LONG_HEAD = b"\xdb", 5


def pack_text(text: bytes) -> bytes:
    """Encode UTF-8 as a MessagePack string."""
    size = len(text)
    return (_SHORT + size.to_bytes(2) if size <= _MAX_SHORT else _LONG + size.to_bytes(4)) + text


def unpack_text(packed: bytes) -> bytes:
    """What was encoded by `pack_text`."""
    return packed[_SHORT_HEAD if packed[:1] == _SHORT else _LONG_HEAD :]


class Series:
    """What a count is of. Compared by identity: made once per policy and resource, or rule, and shared by their calls.

    `field` encodes all of it: what the count is of, and the names of the limits that denials are counted by, in the
    order of their counts. `encoded` is how the store writes that down, in MessagePack; empty if nothing is counted.
    """

    __slots__ = ("_limits", "encoded")

    def __init__(self, field: bytes) -> None:
        self.encoded = pack_text(field) if field else b""
        self._limits = -1

    @property
    def field(self) -> bytes:
        """What the count is of."""
        return unpack_text(self.encoded)

    @classmethod
    def of_key(cls, key_id: str, resource: str, subject: str, plan: str, limits: Iterable[str]) -> "Series":
        """Calls of an API key. LIMITS are the names of their limits, or the reason why no limit was evaluated."""
        return cls(_encode(_KEY, key_id, resource, subject, plan, *limits))

    @classmethod
    def of_rule(cls, domain: str, rule: str, limits: Iterable[str]) -> "Series":
        """Descriptors that are decided by a rule. RULE is its path as configured, never a caller's value."""
        return cls(_encode(_RULE, domain, rule, *limits))

    @property
    def limits(self) -> int:
        """How many limits denials are counted by."""
        if self._limits < 0:
            self._limits = len(parse_field(self.field).limits)
        return self._limits

    def with_limits(self, *limits: str) -> "Series":
        """The same with other limits."""
        parts = self.field.split(_SEPARATOR)
        stem = parts[: _KEY_PARTS if parts[0] == _KEY.encode() else _RULE_PARTS]
        return Series(_SEPARATOR.join([*stem, *map(_encode, limits)]))

    def __repr__(self) -> str:
        return f"Series({self.field!r})"


NO_SERIES = Series(b"")
"""In place of a series where nothing is counted."""


class KeySeries(NamedTuple):
    """What a series of API keys is of, as of the calls."""

    key_id: str
    resource: str
    subject: str
    plan: str


class RuleSeries(NamedTuple):
    """What a series of descriptors is of."""

    domain: str
    rule: str


def as_other(field: bytes) -> bytes:
    """The field of the same series with OTHER as its resource; the same field for a series of a rule."""
    kind, *parts = field.split(_SEPARATOR)
    if kind != _KEY.encode():
        return field
    parts[1] = OTHER.encode()
    return _SEPARATOR.join([kind, *parts])


class ParsedField(NamedTuple):
    """A field of a segment. `minute` is None for counts of the segment's own minute."""

    minute: int | None
    series: KeySeries | RuleSeries
    limits: tuple[str, ...]


def parse_field(field: bytes) -> ParsedField:
    """Read a field of a segment; not the empty one, which holds its meta. Raises ValueError when it is malformed."""
    text = field.decode("utf-8", "replace")
    minute, separator, rest = text.partition(MINUTE_SEPARATOR)
    kind, *parts = (rest if separator else text).split(SEPARATOR)
    at = int(minute) if separator else None
    if kind == _KEY and len(parts) >= _KEY_PARTS - 1:
        return ParsedField(at, KeySeries(*parts[: _KEY_PARTS - 1]), tuple(parts[_KEY_PARTS - 1 :]))
    if kind == _RULE and len(parts) >= _RULE_PARTS - 1:
        return ParsedField(at, RuleSeries(*parts[: _RULE_PARTS - 1]), tuple(parts[_RULE_PARTS - 1 :]))
    raise ValueError(f"{field[:80]!r} is not the field of a series")


class Counts(NamedTuple):
    """The counts of a series.

    `allowed` and `denied` add up to the calls; `degraded` and `shadow_denied` are counted among them. `shadow_denied`:
    calls for which a limit in shadow mode had no room. `cost`: tokens of the allowed calls, less what was refunded, so
    it may be negative. `limits`: for each limit the calls that it denied, and those that it would have denied.
    `clamped`: tokens of the cost of charges made afterwards that a limit did not record, since its overdraft was used
    up; of several limits, those of the one that missed most. `reserved`: calls, among the allowed ones, that made a
    reservation. `settled`: reservations that were settled with an actual cost. Those of the others are under way, or
    were aborted: their estimates stay in `cost`.
    """

    allowed: int = 0
    cost: int = 0
    denied: int = 0
    shadow_denied: int = 0
    degraded: int = 0
    limits: tuple[tuple[int, int], ...] = ()
    clamped: int = 0
    reserved: int = 0
    settled: int = 0

    def pack(self) -> bytes:
        """Encode it as a value of a segment."""
        numbers = [number for pair in self.limits for number in pair]
        totals = (self.allowed, self.cost, self.denied, self.shadow_denied, self.degraded)
        return pack_numbers([*totals, *numbers, self.clamped, self.reserved, self.settled])


_TOTALS = Counts._fields.index("limits")
_AFTER_LIMITS = len(Counts._fields) - _TOTALS - 1


def parse_counts(value: bytes, limits: int) -> Counts:
    """Read a value of a segment, of a series with so many LIMITS. Raises ValueError when it is malformed."""
    numbers = unpack_numbers(value)
    size = _TOTALS + 2 * limits + _AFTER_LIMITS
    if len(numbers) > size:
        raise ValueError(f"{len(numbers)} counts of a series with {limits} limits")
    numbers += [0] * (size - len(numbers))
    allowed, cost, denied, shadow_denied, degraded, *rest, clamped, reserved, settled = numbers
    pairs = tuple(zip(rest[::2], rest[1::2], strict=True))
    return Counts(allowed, cost, denied, shadow_denied, degraded, pairs, clamped, reserved, settled)


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Encode counts, without trailing zeros."""
    size = len(numbers)
    while size and not numbers[size - 1]:
        size -= 1
    return struct.pack(f"<{size}d", *numbers[:size])


def unpack_numbers(value: bytes) -> list[int]:
    """Decode counts. Raises ValueError when VALUE is not a sequence of whole doubles."""
    if len(value) % 8:
        raise ValueError(f"{len(value)} bytes are no counts")
    return [int(number) for number in struct.unpack(f"<{len(value) // 8}d", value)]


class SegmentMeta(NamedTuple):
    """What a segment's empty field holds.

    `seq` and `created_us` name the segment. `minute`: the first one that it has counts of, in minutes since 1970.
    `size`: its bytes in the store, an estimate. `overflow`: calls counted under OTHER because their key had
    MAX_RESOURCES. `coarse`: whether it spans more than its minute.
    """

    seq: int
    created_us: int
    minute: int
    size: int
    overflow: int
    coarse: bool


_META = len(SegmentMeta._fields)


def parse_meta(value: bytes) -> SegmentMeta:
    """Read a segment's empty field. Raises ValueError when it is malformed."""
    numbers = unpack_numbers(value)
    if len(numbers) < _META:
        raise ValueError(f"{len(numbers)} numbers are no meta of a segment")
    seq, created_us, minute, size, overflow, coarse = numbers[:_META]
    return SegmentMeta(seq, created_us, minute, size, overflow, bool(coarse))


def _encode(*parts: str) -> bytes:
    text = SEPARATOR.join([part if part.isprintable() else _CONTROL.sub("?", part) for part in parts])
    return text.encode("utf-8", "replace")
