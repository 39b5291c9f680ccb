"""What a reservation's id says: the buckets that it was charged to, and what of each.

The store keeps nothing but when a reservation was made and until when it is held. Any server can settle any other's
reservations, also while Postgres is away. An id begins with a code that only servers can make, so that one that was
made up reaches no store.
"""

import json
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from os import urandom
from typing import Any, Final, NamedTuple

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import Algorithm, Concurrency, Counting, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.errors import ServiceError

MAX_ID: Final = 8_192
"""Characters of an id. One of 48 limits with the longest names has fewer; one of a single limit some 250."""

_MAX_LIMITS: Final = 1_000
"""Limits that are kept read, of the latest: the reservations of a plan's keys have the same."""

_CODE, _SEED, _ESTIMATE = 16, 16, 5  # bytes of an id: its code, what distinguishes it from all others, and the cost


class Reservation(NamedTuple):
    """What calls of a key are reserved from, and what they count for."""

    key_id: str
    buckets: tuple[Bucket, ...]
    series: Series


def pack(reservation: Reservation) -> bytes:
    """What the ids of all reservations like this one say."""
    key_id, buckets, series = reservation
    stem = series.with_limits().field.decode()
    content = [key_id, buckets[0].partition, stem, [_to_list(bucket) for bucket in buckets]]
    return zlib.compress(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())


def unpack(packed: bytes) -> Reservation:
    """What an id says. Raises ValueError if this version writes none like it."""
    try:
        key_id, partition, stem, limits = json.loads(zlib.decompress(packed))
        buckets = tuple(_from_list(partition, one) for one in limits)
        series = Series(stem.encode()).with_limits(*(bucket.limit.name for bucket in buckets))
        return Reservation(str(key_id), buckets, series)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, zlib.error, ServiceError) as error:
        raise ValueError("it was written by another version") from error


class Opened(NamedTuple):
    """The id of a reservation, and the name under which the store keeps it."""

    id: str
    name: bytes


class Named(NamedTuple):
    """What an id is of: the name of its reservation, its estimate, and what is packed in it."""

    name: bytes
    estimate: int
    packed: bytes


class ReservationIds:
    """Makes and reads ids, with secrets that all servers have: the first for new ones, the others for earlier ones."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def make(self, packed: bytes, estimate: int, request: str = "") -> Opened:
        """A new id of an ESTIMATE and what is PACKED; with the same name for the same REQUEST, unless that is empty."""
        newest = self._secrets[0]
        name = _code(newest, b"request " + request.encode()) if request else urandom(_SEED)
        data = name + estimate.to_bytes(_ESTIMATE) + packed
        return Opened(_to_text(_code(newest, data) + data), name)

    def read(self, reservation_id: str) -> Named:
        """What an id is of. Raises ValueError if no server made it."""
        if len(reservation_id) > MAX_ID or not reservation_id.isascii():
            raise ValueError("it is too long, or not ASCII")
        text = "-" + reservation_id[1:] if reservation_id.startswith(_INITIAL) else reservation_id
        read = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if _to_text(read) != reservation_id:  # the library skips what is not of its alphabet
            raise ValueError("it is not as it was written")
        code, data = read[:_CODE], read[_CODE:]
        if not any(compare_digest(code, _code(secret, data)) for secret in self._secrets):
            raise ValueError("no server with these peppers made it")
        estimate = int.from_bytes(data[_SEED : _SEED + _ESTIMATE])
        return Named(data[:_SEED], estimate, data[_SEED + _ESTIMATE :])


_INITIAL = "~"
"""In place of a `-` at the beginning of an id, which a command line would take for an option."""


def _to_text(data: bytes) -> str:
    text = urlsafe_b64encode(data).decode().rstrip("=")
    return _INITIAL + text[1:] if text.startswith("-") else text


def _code(secret: bytes, data: bytes) -> bytes:
    return blake2b(data, key=secret, digest_size=_CODE).digest()


def _to_list(bucket: Bucket) -> list[Any]:
    limit = bucket.limit
    return [bucket.name, limit.name, limit.mode.value, limit.counts.value, limit.overdraft, *_numbers(limit.algorithm)]


def _from_list(partition: int, values: Sequence[Any]) -> Bucket:
    name, *limit = values
    return Bucket(name, partition, _limit(*limit))


@lru_cache(_MAX_LIMITS)
def _limit(name: str, mode: str, counts: str, overdraft: int, *numbers: int | str) -> Limit:
    return Limit(name, _algorithm(numbers), "*", Mode(mode), Counting(counts), overdraft)


def _numbers(algorithm: Algorithm) -> list[int | str]:
    match algorithm:
        case TokenBucket(capacity, refill_tokens, refill_period_us):
            return [capacity, refill_tokens, refill_period_us]
        case Quota(amount, window):
            return [window.value, amount]
        case Concurrency(maximum, default_hold_us):
            return [maximum, default_hold_us]


def _algorithm(numbers: Sequence[Any]) -> Algorithm:
    if isinstance(numbers[0], str):
        window, amount = numbers
        return Quota(amount, Window(window))
    if len(numbers) == 2:  # noqa: PLR2004  those of a concurrency limit
        return Concurrency(*numbers)
    return TokenBucket(*numbers)
