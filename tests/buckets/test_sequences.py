"""The Lua script and the pure Python buckets agree on many random histories: `RATELIMIT_SEQUENCES=100000` for as many.

`test_model.py` looks for the smallest history in which they differ. This one tries more of them: in each run of the
script there is a step of many sequences, which share a clock and nothing else.
"""

import os
import random
from typing import Final

from buckets.clocked import ClockedStore
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, Extend, Grant, Reserve, Return, Settle
from ratelimit_service.decision.limit import (
    MAX_TOKENS,
    MICRO,
    Algorithm,
    Concurrency,
    Counting,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)

SEQUENCES: Final = int(os.environ.get("RATELIMIT_SEQUENCES", "1920"))
TOGETHER: Final = 64
STEPS: Final = 14
STEPS_US: Final = (
    *(0, 1, 999, 500_000, MICRO, 7 * MICRO, 61 * MICRO, 3_601 * MICRO, 86_400 * MICRO),
    *(-MICRO, -3_600 * MICRO),
)
BEGIN_US: Final = 1_800_000_000_000_000


class Sequence:
    """One history: of three buckets, the limits of two plans, its reservations and grants."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self._chance = chance
        self._prefix = f"sequence.{number}"
        self._limits = [[self._limit() for _ in range(3)] for _ in range(2)]
        self._made: list[tuple[bytes, tuple[Bucket, ...], tuple[int, ...]]] = []
        self._granted: list[Charge] = []

    def step(self) -> Charge:
        """What happens next."""
        chance = self._chance
        if chance.random() < 0.05:
            chance.choice(self._limits)[chance.randrange(3)] = self._limit()
        if chance.random() < 0.3:
            return self._grant()
        kind = chance.random()
        if self._made and kind < 0.4:
            name, buckets, reserved = chance.choice(self._made)
            if kind < 0.1:
                hold_us = chance.choice([MICRO, 30 * MICRO, 3_600 * MICRO])
                return Charge(buckets, (0,) * len(buckets), reservation=Extend(name, reserved, hold_us))
            return Charge(buckets, self._changes(buckets, reserved), reservation=Settle(name, reserved))
        limits = chance.choice(self._limits)
        which = chance.sample(range(3), chance.randint(1, 3))
        buckets = tuple(Bucket(f"{self._prefix}.{number}", 0, limits[number]) for number in which)
        cost = chance.choice([0, 1, 1, 2, 5, 30, MAX_TOKENS])
        if kind < 0.7:
            request = f"{self._prefix}.again" if kind < 0.5 else ""  # perhaps with other buckets than before
            name = (request or f"{self._prefix}.{len(self._made)}").encode()
            reserved = tuple(1 if _has_slots(bucket) else bucket.limit.tokens_of(cost) for bucket in buckets)
            self._made.append((name, buckets, reserved))
            hold_us = chance.choice([MICRO, 1_300_000, 20 * MICRO, 3_600 * MICRO])
            return Charge(buckets, reserved, request, reservation=Reserve(name, hold_us))
        costs = tuple(bucket.limit.tokens_of(cost) for bucket in buckets)
        if kind < 0.85:
            return Charge(buckets, costs, afterwards=cost > 0)
        return Charge(buckets, tuple(-tokens for tokens in costs) if kind < 0.9 else costs)

    def _grant(self) -> Charge:
        """A grant, or a return of one, perhaps by other limits than it was made by; both perhaps again."""
        chance, kind = self._chance, self._chance.random()
        if self._granted and kind < 0.15:
            return chance.choice(self._granted)
        limits = chance.choice(self._limits)
        buckets = [Bucket(f"{self._prefix}.{number}", 0, limit) for number, limit in enumerate(limits)]
        buckets = [bucket for bucket in buckets if not _has_slots(bucket)]
        if self._granted and kind < 0.55:
            name = chance.choice(self._granted).reservation.name
            return Charge(tuple(buckets), (0,) * len(buckets), reservation=Return(name, chance.choice([0, 1, 3, 100])))
        buckets = chance.sample(buckets, chance.randint(0, len(buckets)))
        cost = chance.choice([1, 1, 2, 5, MAX_TOKENS])
        name = f"{self._prefix}.g{len(self._granted)}".encode()
        wants, ttl_us = chance.choice([1, 2, 10, 1_000_000]), chance.choice([10_000, 300_000, MICRO])
        own = Grant(name, ttl_us, wants, chance.choice([1, 4]), cost)
        costs = tuple(bucket.limit.tokens_of(cost) for bucket in buckets)
        self._granted.append(Charge(tuple(buckets), costs, reservation=own))
        return self._granted[-1]

    def _changes(self, buckets: tuple[Bucket, ...], reserved: tuple[int, ...]) -> tuple[int, ...]:
        share = self._chance.choice([0, 0, 1, 2, 3, 6])
        return tuple(
            -tokens
            if _has_slots(bucket)
            else 0
            if bucket.limit.counts is Counting.CALLS
            else min(tokens * share // 2, MAX_TOKENS) - tokens
            for bucket, tokens in zip(buckets, reserved, strict=True)
        )

    def _limit(self) -> Limit:
        chance = self._chance
        algorithm: Algorithm = chance.choice(
            [
                TokenBucket(chance.choice([1, 3, 40]), chance.choice([1, 3, 7]), chance.choice([1_000, 1_007, MICRO])),
                TokenBucket(chance.choice([5, 100]), 1, 60 * MICRO),
                Quota(chance.choice([1, 5, 50]), chance.choice(list(Window))),
                Concurrency(chance.choice([1, 2, 5]), MICRO),
            ]
        )
        mode = chance.choice([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW])
        if isinstance(algorithm, Concurrency):
            return Limit("limit", algorithm, mode=mode)
        overdraft = chance.choice([None, None, 0, 4, 60])
        return Limit("limit", algorithm, mode=mode, counts=chance.choice(list(Counting)), overdraft=overdraft)


def _has_slots(bucket: Bucket) -> bool:
    return isinstance(bucket.limit.algorithm, Concurrency)


def test_many_sequences(valkey_url: str) -> None:
    """With debt, holds, settlements, grants, their expiry, changed limits and clocks that step, no result differs."""
    chance = random.Random(os.environ.get("RATELIMIT_SEED", "sequences"))
    with ClockedStore(valkey_url, "clock:sequences") as store:
        for start in range(0, SEQUENCES, TOGETHER):
            reference, now_us = ReferenceBuckets(), BEGIN_US + chance.randrange(400 * 86_400) * MICRO
            sequences = [Sequence(start + number, chance) for number in range(TOGETHER)]
            for _ in range(STEPS):
                now_us += chance.choice(STEPS_US)
                charges = [sequence.step() for sequence in sequences]
                found, expected = store.charge(charges, now_us), reference.charge(charges, now_us)
                for charge, one, other in zip(charges, found, expected, strict=True):
                    assert one == other, charge
