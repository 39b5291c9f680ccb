"""The charge script: its text, and the encoding of its arguments and its reply, which `lua/charge.lua` documents."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from itertools import repeat
from typing import NamedTuple

from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.decision.charge import (
    GONE,
    MAX_RESERVED,
    UNCHANGED,
    Bucket,
    Charge,
    ChargeResult,
    Counted,
    Exhausted,
    Extend,
    Grant,
    Granted,
    HoldAction,
    HoldChange,
    LimitResult,
    Reserve,
    Return,
    Returned,
    Settle,
)
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Mode, Quota, TokenBucket, Window

_LUA = files(__package__) / "lua"
# A script without flags is one that writes: a replica, and a server out of memory, reject it before it runs.
_SHEBANG = "#!lua\n"
# One with this flag runs all the same when memory is used up, whatever it calls: it must not need more for long.
_SHEBANG_WITHOUT_MEMORY = "#!lua flags=allow-oom\n"


class Script:
    """A Lua script and the SHA-1 by which the store knows it. `allow_oom`: it runs on a server without memory, too."""

    def __init__(self, *parts: str, allow_oom: bool = False) -> None:
        self.text = ((_SHEBANG_WITHOUT_MEMORY if allow_oom else _SHEBANG) + "\n".join(parts)).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


def part(name: str) -> str:
    """The part of this name, `lua/<name>.lua`."""
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


def charge_scripts(*, clock: str | None = None, usage: str | None = None) -> tuple[Script, ...]:
    """The scripts that make a batch of charges, one for each Room of a server.

    CLOCK is Lua that sets a local `now` in microseconds since 1970 UTC; None takes the store's own clock, the only one
    that decisions may use. USAGE is Lua that counts; None takes `lua/usage.lua`. Tests pass others.
    """
    others = (*map(part, ("windows", "packed", "levels", "slots", "grants")), usage or part("usage"), part("others"))
    parts = (
        clock or part("clock"),
        part("state"),
        part("charge"),
        "local function make_others()",
        *others,
        "end",
        part("plain"),
    )
    return tuple(Script(f"local ROOM_LEFT = {room:d}", *parts, allow_oom=room is Room.FULL) for room in Room)


def usage_script(name: str, *, clock: str | None = None) -> Script:
    """A script on usage alone: `count` adds a worker's batch, `freeze` freezes a segment that is over."""
    return Script(clock or part("clock"), part("usage"), part(name), allow_oom=name == "freeze")


def share_script(name: str, *, clock: str | None = None) -> Script:
    """A script on what is held of pools: `shares` visits some, and the others announce some to all servers."""
    return Script(clock or part("clock"), part(name))


def kind_of(quota: Quota) -> int:
    """The number by which scripts know the kind of a quota."""
    return _KINDS[quota.window]


ONE_TAG = b"{u}"
"""The tag of the keys of usage, but for a cluster: there each partition has its own."""

_FIXINT_END = 128  # non-negative numbers below it are one byte in MessagePack
_SMALL = 4_096  # above the number of keys of a script: at most batcher.MAX_SIZE buckets, and as many requests


def pack_number(number: int) -> bytes:
    """Encode a whole number in MessagePack."""
    return bytes([number]) if 0 <= number < _FIXINT_END else b"\xd3" + number.to_bytes(8, signed=True)


def pack_array(elements: Collection[bytes]) -> bytes:
    """Encode encoded elements as a MessagePack array: its 32-bit length, then they."""
    return b"\xdd%b%b" % (len(elements).to_bytes(4), b"".join(elements))


_NUMBERS = [pack_number(number) for number in range(_SMALL)]
_ONE_BUCKET = pack_number(1) + pack_number(0)  # and no request
_NONE = pack_number(0)
_NO_OVERDRAFT = pack_number(-1)
_WITH_OVERDRAFT, _AFTERWARDS, _RESERVES, _SETTLES, _EXTENDS = 1024, 2048, 4096, 8192, 16384  # as in charge.lua
_GRANTS = 32768
_EXHAUSTED = -1  # the reply to a charge that time alone will let fit
_BEFORE = 2  # the reply to the return of a grant that was returned before
_KINDS_END = 16  # above all kinds
_MAX_TERMS = 1_000  # limits that are kept encoded
_KINDS = {window: kind for kind, window in enumerate(Window, start=2)}
_SLOTS = 9  # the kind of a concurrency limit


class Encoded(NamedTuple):
    """The arguments of one run of the script, encoded for the wire, and their number.

    `reserves`: whether one of its charges has to do with a reservation or grant, or is made afterwards.
    """

    words: int
    arguments: bytes
    reserves: bool = False


class _EncodedTerms(NamedTuple):
    """The parts of a charge that depend on the limit of a bucket alone: one object for all its buckets."""

    limit: bytes
    overdraft: bytes
    """Empty if it is not set."""


class Encoder:
    """Encodes charges as commands.

    `scripts`: one for each Room, as `charge_scripts` makes them. `request_window`: seconds for which the store keeps
    the result of a request. `usage_bytes`: what counts of usage may take in the store, for each tag.
    """

    def __init__(self, scripts: Sequence[Script], request_window: float, usage_bytes: int) -> None:
        self._evalsha = [_bulk(b"EVALSHA") + _bulk(script.sha) for script in scripts]
        self._eval = [_bulk(b"EVAL") + _bulk(script.text) for script in scripts]
        self._window = _bulk(b"%d" % max(round(request_window * 1_000), 1))
        self._usage_bytes = _bulk(b"%d" % usage_bytes)

    def encode(  # noqa: C901, PLR0912, PLR0915  one pass without calls, on the hot path
        self, charges: Sequence[Charge], usage: bytes
    ) -> Encoded:
        """Encode a batch. Keys and series that occur twice are sent once. USAGE is the key to count in."""
        keys: dict[bytes, int] = {}
        fields: dict[bytes, int] = {}
        parts: list[bytes] = []
        size = 0
        reserves = False
        numbers = _NUMBERS
        for buckets, costs, request, counted, afterwards, reservation in charges:
            if (  # the common case, without a loop
                len(buckets) == 1 and not (request or afterwards or reservation) and len(counted) <= 1
            ):
                (bucket,), (cost,) = buckets, costs
                if counted:
                    ((series, spent, calls, positions),) = counted
                    simple = positions is None and spent == cost and calls == 1
                    field = series.encoded
                    which = fields.setdefault(field, len(fields) + 1)
                else:
                    simple, which = True, 0
                limit, overdraft = bucket.terms or _encode_bucket(bucket)
                if simple and not overdraft:
                    index = keys.setdefault(bucket.encoded, len(keys) + 1)
                    parts += (
                        _ONE_BUCKET,
                        numbers[which],
                        numbers[index],
                        numbers[cost] if 0 <= cost < _SMALL else pack_number(cost),
                        limit,
                    )
                    size += 9
                    continue
            count = len(buckets)
            reserved: tuple[int, ...] = ()
            encoded = [bucket.terms or _encode_bucket(bucket) for bucket in buckets]
            wide = afterwards or bool(reservation) or any(each.overdraft for each in encoded)
            reserves = reserves or afterwards or bool(reservation)
            if reservation:
                flag, terms, reserved = _holding_of(reservation, count)
                size += 4 + len(terms) + 7 * count + len(reserved)
                parts.append(pack_number(count + flag))
            elif wide:
                size += 3 + 7 * count
                parts.append(numbers[count + (_AFTERWARDS if afterwards else _WITH_OVERDRAFT)])
            else:
                size += 3 + 6 * count
                parts.append(numbers[count])
            index = 0
            if request:
                key = _bulk(request_key(buckets[0].partition if buckets else 0, request))
                index = keys.setdefault(key, len(keys) + 1)
            series_count, blocks = self._encode_counted(counted, costs, fields) if counted else (_NONE, ())
            parts += (numbers[index], series_count)
            if reservation:
                key = _bulk(_record_key(buckets[0].partition if buckets else 0, reservation))
                index = keys.setdefault(key, len(keys) + 1)
                parts += (numbers[index], *map(pack_number, terms))
            for position, (bucket, (limit, overdraft), cost) in enumerate(zip(buckets, encoded, costs, strict=True)):
                index = keys.setdefault(bucket.encoded, len(keys) + 1)
                parts += (numbers[index], numbers[cost] if 0 <= cost < _SMALL else pack_number(cost), limit)
                if wide:
                    parts.append(overdraft or _NO_OVERDRAFT)
                if reserved:
                    parts.append(pack_number(reserved[position]))
            parts += blocks
            size += len(blocks)
        # A MessagePack array: its 32-bit length, then its elements.
        batch = b"\xdd%b%b" % (size.to_bytes(4), b"".join(parts))
        if not fields:
            arguments = (_bulk(b"%d" % len(keys)), *keys, _bulk(batch), self._window)
            return Encoded(len(arguments), b"".join(arguments), reserves)
        arguments = (
            _bulk(b"%d" % (len(keys) + 1)),
            *keys,
            _bulk(usage),
            _bulk(batch),
            self._window,
            _bulk(pack_array(fields)),
            self._usage_bytes,
        )
        return Encoded(len(arguments), b"".join(arguments), reserves)

    def evalsha(self, encoded: Encoded, room: Room = Room.PLENTY) -> bytes:
        """The command that runs the script for ROOM if the store has it loaded, and fails with NOSCRIPT if not."""
        return b"*%d\r\n%b%b" % (encoded.words + 2, self._evalsha[room], encoded.arguments)

    def eval(self, encoded: Encoded, room: Room = Room.PLENTY) -> bytes:
        """The command that loads the script and runs it."""
        return b"*%d\r\n%b%b" % (encoded.words + 2, self._eval[room], encoded.arguments)

    def _encode_counted(
        self, counted: Sequence[Counted], costs: Sequence[int], fields: dict[bytes, int]
    ) -> tuple[bytes, Sequence[bytes]]:
        """The number in place of the series, and what follows the buckets."""
        blocks: list[bytes] = []
        for series, cost, calls, positions in counted:
            field = series.encoded
            which = pack_number(fields.setdefault(field, len(fields) + 1))
            if positions is None and calls == 1 and len(counted) == 1 and costs and cost == costs[0]:
                return which, ()
            own = range(len(costs)) if positions is None else positions
            numbers = (calls, cost, series.limits, len(own), *own)
            blocks.append(which)
            blocks += [_NUMBERS[number] if 0 <= number < _SMALL else pack_number(number) for number in numbers]
        return pack_number(-len(counted)), blocks


def _encode_bucket(bucket: Bucket) -> _EncodedTerms:
    """Have BUCKET keep its key, encoded for the wire, and its terms, which are returned."""
    bucket.encoded = _bulk(bucket_key(bucket))
    terms = bucket.terms = _encode_terms(bucket.limit, bucket.family)
    return terms


@lru_cache(_MAX_TERMS)
def _encode_terms(limit: Limit, family: int) -> _EncodedTerms:
    algorithm = limit.algorithm
    if isinstance(algorithm, TokenBucket):
        kind, rate = 1, algorithm.rate
    elif isinstance(algorithm, Concurrency):
        kind, rate = _SLOTS, (0, 0)
    else:
        kind, rate = _KINDS[algorithm.window], (0, 0)
    sign = 1 if limit.mode is Mode.ENFORCE else -1
    number = sign * (kind + _KINDS_END * family)
    packed = b"".join(map(pack_number, (number, limit.capacity * MICRO, *rate)))
    return _EncodedTerms(packed, b"" if limit.overdraft is None else pack_number(limit.overdraft * MICRO))


class _Holding(NamedTuple):
    """What a charge is sent for what it does to a reservation or grant.

    `flag` is added to the number of its buckets, `terms` follow the index of the key, and `reserved` are in the blocks
    of the buckets.
    """

    flag: int
    terms: tuple[int, ...]
    reserved: tuple[int, ...]


def _holding_of(action: HoldAction, count: int) -> _Holding:
    """That of a charge with COUNT buckets. Raises ValueError if they are too many."""
    if count > MAX_RESERVED:
        raise ValueError(f"a reservation has {count} buckets, more than {MAX_RESERVED}")
    match action:
        case Reserve(_, hold_us):
            return _Holding(_RESERVES, (hold_us,), ())
        case Settle(_, reserved):
            return _Holding(_SETTLES, (0,), reserved)
        case Extend(_, reserved, hold_us):
            return _Holding(_EXTENDS, (hold_us,), reserved)
        case Grant(_, ttl_us, wants, share, call):
            return _Holding(_GRANTS + _RESERVES, (ttl_us, wants, share, call), ())
        case Return(_, unused):
            return _Holding(_GRANTS + _SETTLES, (unused,), (0,) * count)


def _record_key(partition: int, action: HoldAction) -> bytes:
    """The key of what the store keeps of the reservation or grant."""
    if isinstance(action, Grant | Return):
        return grant_key(partition, action.name)
    return reservation_key(partition, action.name)


def decode(charges: Sequence[Charge], reply: Sequence[int]) -> list[ChargeResult]:
    """Decode the script's reply. Raises ValueError when it is not a reply to these charges."""
    results = []
    new = tuple.__new__  # half of what calling the class costs
    at = 0
    for buckets, _, _, _, _, reservation in charges:
        outcome, clamped, held_us, hold = reply[at], 0, 0, UNCHANGED
        charged = outcome == 1
        end = at + 1 + 3 * len(buckets)
        if reservation:
            if isinstance(reservation, Grant | Return):
                result, at = _decode_grant(reservation, len(buckets), reply, at)
                results.append(result)
                continue
            hold = new(HoldChange, reply[end : end + 2])
        if reservation and not isinstance(reservation, Reserve) and (isinstance(reservation, Extend) or not outcome):
            charged, held_us = outcome > 0, outcome or GONE
        elif outcome > 1:  # made afterwards
            clamped, nothing_left = divmod(outcome - 2, 2)
            charged = not nothing_left
        if end == at + 4:  # the common case, without a loop
            result_of_bucket = (reply[at + 1], reply[at + 2], reply[at + 3])
            limit_results: tuple[LimitResult, ...] = (new(LimitResult, result_of_bucket),)
        else:
            numbers = iter(reply[at + 1 : end])
            limit_results = tuple(map(new, repeat(LimitResult), zip(numbers, numbers, numbers, strict=True)))
        kind = Exhausted if outcome == _EXHAUSTED and not reservation else ChargeResult
        results.append(new(kind, (charged, limit_results, clamped, held_us, hold)))
        at = end + 2 if reservation else end
    if at != len(reply):
        raise ValueError(f"{len(reply)} numbers instead of {at}")
    return results


def _decode_grant(reservation: Grant | Return, count: int, reply: Sequence[int], at: int) -> tuple[ChargeResult, int]:
    """The result of what is at REPLY[at] on, of a charge of COUNT buckets, and where the next one is."""
    start = at + 3 if isinstance(reservation, Grant) else at + 3 + count
    end = start + 1 + 3 * count
    limit_results = tuple(LimitResult(*reply[i : i + 3]) for i in range(start + 1, end, 3))
    if isinstance(reservation, Return):
        found, units, left_us = reply[at : at + 3]
        returned = Returned(units, tuple(reply[at + 3 : start]), found == _BEFORE, left_us)
        return ChargeResult(found > 0, limit_results, 0, 0 if found else GONE, returned), end
    taken, units, left_us = reply[at:start]
    if units and not reply[start]:  # a bucket had no room after all
        taken, units, left_us = 0, 0, 0
    return ChargeResult(units > 0, limit_results, hold=Granted(taken, units, left_us)), end


def bucket_key(bucket: Bucket) -> bytes:
    """The key of a bucket's state. The braces (a hash tag) put a partition into one slot of a Redis Cluster.

    Slots have keys of their own, so that a limit may become another kind under the same name.
    """
    kind = b"s" if isinstance(bucket.limit.algorithm, Concurrency) else b"b"
    return b"{p%d}:%b:%b" % (bucket.partition, kind, bucket.name.encode())


def usage_key(tag: bytes) -> bytes:
    """The key of the open segment of usage."""
    return tag + b":u:o"


def partition_tag(partition: int) -> bytes:
    """The tag of a partition's keys on a Redis Cluster."""
    return b"{p%d}" % partition


def request_key(partition: int, request: str) -> bytes:
    """The key of a request's result."""
    return b"{p%d}:r:%b" % (partition, request.encode())


def reservation_key(partition: int, name: bytes) -> bytes:
    """The key of a reservation."""
    return b"{p%d}:h:%b" % (partition, name)


def grant_key(partition: int, name: bytes) -> bytes:
    """The key of a grant."""
    return b"{p%d}:g:%b" % (partition, name)


def pool_key(partition: int, name: str) -> bytes:
    """The key of what is held of a pool."""
    return b"{p%d}:q:%b" % (partition, name.encode())


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
