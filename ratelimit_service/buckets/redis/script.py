"""The charge script: its text, charges as its arguments, and its reply as results. See `lua/charge.lua` for both."""

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, Mode, TokenBucket, Window

_LUA = files(__package__) / "lua"
# A script without flags is one that writes: a replica, and a server out of memory, refuse it before it begins.
_SHEBANG = "#!lua\n"


class Script:
    """A Lua script and the SHA-1 by which the store knows it."""

    def __init__(self, *parts: str) -> None:
        self.text = (_SHEBANG + "\n".join(parts)).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


def part(name: str) -> str:
    """The part of this name, `lua/<name>.lua`."""
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


def charge_script(*, clock: str | None = None, state: str | None = None) -> Script:
    """The script that makes a batch of charges.

    CLOCK is Lua that sets a local `now` in microseconds since 1970 UTC; None takes the store's own clock, the only one
    that decisions may go by. STATE is Lua that reads and writes buckets; None takes `lua/state.lua`. Tests and
    benchmarks give others.
    """
    return Script(clock or part("clock"), part("windows"), state or part("state"), part("charge"))


MAX_PREPARED = 200_000
"""Buckets whose encoding is kept. Beyond that all are forgotten and made anew, which costs a few microseconds each."""

_BYTE = 128  # numbers below it are one byte in MessagePack
_READY = 4_096  # more than a script has keys: at most batcher.MAX_BUCKETS buckets, and as many requests


def _packed(number: int) -> bytes:
    return bytes([number]) if 0 <= number < _BYTE else b"\xd3" + number.to_bytes(8, signed=True)


_NUMBERS = [_packed(number) for number in range(_READY)]
_ALONE = _packed(1) + _packed(0)  # one bucket, no request
_KINDS = {window: kind for kind, window in enumerate(Window, start=2)}


class Encoded(NamedTuple):
    """The arguments of one run of the script, in the protocol of the store: keys and what is to be done."""

    keys: int
    tail: bytes


class _Prepared(NamedTuple):
    """What is the same for each charge of a bucket: its key, ready for the wire, and its limit."""

    key: bytes
    limit: bytes


class Encoder:
    """Turns charges into commands. `request_window`: seconds for which the store keeps the outcome of a request."""

    def __init__(self, script: Script, request_window: float) -> None:
        self._by_sha = _bulk(b"EVALSHA") + _bulk(script.sha)
        self._by_text = _bulk(b"EVAL") + _bulk(script.text)
        self._window = _bulk(b"%d" % max(round(request_window * 1_000), 1))
        self._prepared: dict[Bucket, _Prepared] = {}

    def encode(self, charges: Sequence[Charge]) -> Encoded:
        """Encode a batch. Keys that occur twice are sent once."""
        keys: dict[bytes, int] = {}
        parts: list[bytes] = []
        size = 0
        prepared, numbers = self._prepared, _NUMBERS
        for buckets, costs, request in charges:
            if len(buckets) == 1 and not request:  # the common case, without a loop
                (bucket,), (cost,) = buckets, costs
                key, limit = prepared.get(bucket) or self._prepare(bucket)
                place = keys.setdefault(key, len(keys) + 1)
                parts += (_ALONE, numbers[place], numbers[cost] if 0 <= cost < _READY else _packed(cost), limit)
                size += 8
                continue
            count = len(buckets)
            size += 2 + 6 * count
            parts.append(numbers[count])
            place = 0
            if request:
                key = request_key(buckets[0].partition if buckets else 0, request)
                place = keys.setdefault(key, len(keys) + 1)
            parts.append(numbers[place])
            for bucket, cost in zip(buckets, costs, strict=True):
                key, limit = prepared.get(bucket) or self._prepare(bucket)
                place = keys.setdefault(key, len(keys) + 1)
                parts += (numbers[place], numbers[cost] if 0 <= cost < _READY else _packed(cost), limit)
        # An array with a 32-bit length, then its elements as they come.
        plan = b"\xdd%b%b" % (size.to_bytes(4), b"".join(parts))
        return Encoded(len(keys), b"%b%b%b%b" % (_bulk(b"%d" % len(keys)), b"".join(keys), _bulk(plan), self._window))

    def by_sha(self, encoded: Encoded) -> bytes:
        """The command that runs the script if the store knows it, and fails with NOSCRIPT if it does not."""
        return b"*%d\r\n%b%b" % (encoded.keys + 5, self._by_sha, encoded.tail)

    def by_text(self, encoded: Encoded) -> bytes:
        """The command that runs the script and makes it known."""
        return b"*%d\r\n%b%b" % (encoded.keys + 5, self._by_text, encoded.tail)

    def _prepare(self, bucket: Bucket) -> _Prepared:
        if len(self._prepared) >= MAX_PREPARED:
            self._prepared.clear()
        limit = bucket.limit
        algorithm = limit.algorithm
        if isinstance(algorithm, TokenBucket):
            kind, rate = 1, algorithm.rate
        else:
            kind, rate = _KINDS[algorithm.window], (0, 0)
        sign = 1 if limit.mode is Mode.ENFORCE else -1
        packed = b"".join(_packed(number) for number in (sign * kind, limit.capacity * MICRO, *rate))
        ready = self._prepared[bucket] = _Prepared(_bulk(bucket_key(bucket)), packed)
        return ready


def decode(charges: Sequence[Charge], reply: Sequence[int]) -> list[ChargeResult]:
    """Turn the script's answer into outcomes. Raises ValueError when it is not an answer to these charges."""
    outcomes = []
    new = tuple.__new__  # half of what calling the class costs
    at = 0
    for buckets, _, _ in charges:
        charged = reply[at] == 1
        end = at + 1 + 3 * len(buckets)
        if end == at + 4:  # the common case, without a loop
            results: tuple[LimitResult, ...] = (new(LimitResult, reply[at + 1 : end]),)
        else:
            results = tuple([new(LimitResult, reply[i : i + 3]) for i in range(at + 1, end, 3)])
        outcomes.append(new(ChargeResult, (charged, results)))
        at = end
    if at != len(reply):
        raise ValueError(f"the script answered {len(reply)} numbers where {at} were expected")
    return outcomes


def bucket_key(bucket: Bucket) -> bytes:
    """The key of a bucket's state. The braces make Redis Cluster keep a partition together."""
    return b"{p%d}:b:%b" % (bucket.partition, bucket.name.encode())


def request_key(partition: int, request: str) -> bytes:
    """The key of a request's outcome, ready for the wire."""
    return _bulk(b"{p%d}:r:%b" % (partition, request.encode()))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
