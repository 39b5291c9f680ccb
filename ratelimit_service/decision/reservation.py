"""What a reservation's id says: the buckets that it was charged to, and what of each.

The store keeps nothing but when a reservation was made and until when it is held. Any server can settle any other's
reservations without looking up their keys: neither a plan that has changed meanwhile nor Postgres being away stops
anybody. An id begins with a code that only servers can make, so that one that was made up reaches no store.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from os import urandom
from typing import Any, Final, NamedTuple

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import Algorithm, Concurrency, Counting, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.errors import ServiceError

MAX_ID: Final = 8_192
"""Characters of an id: one of 32 limits with the longest names has 7,000."""

_CODE, _SEED = 16, 16  # bytes of an id: its code, and what distinguishes it from all others


class Reservation(NamedTuple):
    """What was reserved: `reserved[i]` tokens from `buckets[i]`, for a call with this estimated cost."""

    buckets: tuple[Bucket, ...]
    reserved: tuple[int, ...]
    estimate: int
    series: Series


def pack(reservation: Reservation) -> bytes:
    """What the ids of all reservations like this one say."""
    buckets, reserved, estimate, series = reservation
    limits = [[*_to_list(bucket), tokens] for bucket, tokens in zip(buckets, reserved, strict=True)]
    field = series.field.decode()
    return json.dumps([buckets[0].partition, estimate, field, limits], separators=(",", ":")).encode()


class Opened(NamedTuple):
    """The id of a reservation, and the name under which the store keeps it."""

    id: str
    name: bytes


class ReservationIds:
    """Makes and reads ids, with secrets that all servers have: the first for new ones, the others for earlier ones."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def make(self, packed: bytes, request: str = "") -> Opened:
        """A new id that says what is PACKED; for the same REQUEST, if that is not empty, the same one."""
        newest = self._secrets[0]
        seed = _code(newest, b"request " + request.encode()) if request else urandom(_SEED)
        name = _code(newest, seed + packed)
        return Opened(urlsafe_b64encode(name + seed + packed).decode().rstrip("="), name)

    def read(self, reservation_id: str) -> tuple[bytes, bytes]:
        """The name of the reservation, and what is packed in its id. Raises ValueError if no server made the id."""
        if len(reservation_id) > MAX_ID or not reservation_id.isascii():
            raise ValueError("it is too long, or not ASCII")
        data = urlsafe_b64decode(reservation_id + "=" * (-len(reservation_id) % 4))
        name, rest = data[:_CODE], data[_CODE:]
        if not any(compare_digest(name, _code(secret, rest)) for secret in self._secrets):
            raise ValueError("no server with these peppers made it")
        return name, rest[_SEED:]


def _code(secret: bytes, data: bytes) -> bytes:
    return blake2b(data, key=secret, digest_size=_CODE).digest()


def unpack(packed: bytes) -> Reservation:
    """What an id says. Raises ValueError if no reservation has such an id."""
    try:
        partition, estimate, field, limits = json.loads(packed)
        buckets = tuple(_from_list(partition, one[:-1]) for one in limits)
        return Reservation(buckets, tuple(int(one[-1]) for one in limits), int(estimate), Series(field.encode()))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, ServiceError) as error:
        raise ValueError("it says nothing that a server wrote") from error


def _to_list(bucket: Bucket) -> list[Any]:
    limit = bucket.limit
    return [bucket.name, limit.name, limit.mode.value, limit.counts.value, limit.overdraft, *_numbers(limit.algorithm)]


def _from_list(partition: int, values: Sequence[Any]) -> Bucket:
    name, limit_name, mode, counts, overdraft, *numbers = values
    limit = Limit(limit_name, _algorithm(numbers), "*", Mode(mode), Counting(counts), overdraft)
    return Bucket(name, partition, limit)


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
