"""What the script says of denials holds: only time ends those that it marks, unless it says that something else did.

On the histories of `test_sequences.py`: two plans of one subject whose limits of the same name differ in everything,
reservations, grants, refunds and charges made afterwards.
"""

import os
import random
from collections import defaultdict
from typing import Final, NamedTuple

import pytest
import redis

from buckets.clocked import ClockedStore
from buckets.test_sequences import BEGIN_US, Sequence
from ratelimit_service.buckets.redis.returned_watch import CHANNEL
from ratelimit_service.decision.charge import Bucket, Charge, Exhausted, Grant, Reserve, Return, Settle
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.outcome import wait_for

SEQUENCES: Final = 64
ROUNDS: Final = int(os.environ.get("RATELIMIT_SEQUENCES", "1920")) // 160
STEPS: Final = 14
STEPS_US: Final = (0, 1, 999, 20_000, 500_000, MICRO, 7 * MICRO, 61 * MICRO)


class History(Sequence):
    """Mostly checks, by one plan more often than by the other, so that there is something to deny."""

    def step(self) -> Charge:
        """What happens next."""
        chance = self._chance
        if chance.random() < 0.2:
            return super().step()
        limits = self._limits[chance.random() < 0.2]
        which = [number for number in chance.sample(range(3), chance.randint(1, 2)) if not _has_slots(limits[number])]
        buckets = tuple(Bucket(f"{self._prefix}.{number}", 0, limits[number]) for number in which)
        cost = chance.choice([1, 1, 2, 5])
        return Charge(buckets, tuple(bucket.limit.tokens_of(cost) for bucket in buckets))


def _has_slots(limit: Limit) -> bool:
    return isinstance(limit.algorithm, Concurrency)


class Claim(NamedTuple):
    """That this cost does not fit the bucket before a time in microseconds."""

    bucket: Bucket
    cost: int
    until_us: int


class Channel:
    """What the script publishes."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(CHANNEL)
        self._pubsub.get_message(timeout=5)

    def read(self) -> list[str]:
        """The names since the last time."""
        self._client.publish(CHANNEL, "end")
        names: list[str] = []
        while True:
            message = self._pubsub.get_message(timeout=5)
            if message is not None:
                found = message["data"].decode().split(" ")
                if found == ["end"]:
                    return names
                names += found

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


def test_a_denial_that_is_marked_lasts_unless_something_is_returned(valkey_url: str) -> None:
    """By whatever limit the bucket is charged meanwhile."""
    channel = Channel(valkey_url)
    claimed = returned = 0
    with ClockedStore(valkey_url) as store:
        for number in range(ROUNDS):
            chance = random.Random(number)
            sequences = [History(10**6 + number * SEQUENCES + each, chance) for each in range(SEQUENCES)]
            claims: dict[str, list[Claim]] = defaultdict(list)
            now_us = BEGIN_US + chance.randrange(10**12)
            channel.read()
            for _ in range(STEPS):
                now_us += chance.choice(STEPS_US)
                charges = [sequence.step() for sequence in sequences]
                results = store.charge(charges, now_us)
                for name in channel.read():
                    returned += len(claims.pop(name, ()))
                for name, made in claims.items():
                    claims[name] = [claim for claim in made if claim.until_us > now_us]
                alive = [claim for made in claims.values() for claim in made]
                peeks = store.charge([Charge((claim.bucket,), (0,)) for claim in alive], now_us)
                for claim, peek in zip(alive, peeks, strict=True):
                    assert wait_for(claim.bucket.limit, peek.limit_results[0], claim.cost) != 0, claim
                for charge, result in zip(charges, results, strict=True):
                    if isinstance(result, Exhausted):
                        for bucket, cost, limit in zip(charge.buckets, charge.costs, result.limit_results, strict=True):
                            if limit.wait_us > 0:
                                claims[bucket.name].append(Claim(bucket, cost, now_us + limit.wait_us))
                                claimed += 1
    channel.close()
    assert claimed > 30 * ROUNDS
    assert returned > 5 * ROUNDS


def test_what_is_published(valkey_url: str) -> None:
    """A bucket's name when something is refunded to it; nothing for checks by one limit, however it denies them."""
    channel = Channel(valkey_url)
    limits = [
        TokenBucket(10, 7, 1_007_000),
        TokenBucket(3, 1, MICRO),
        Quota(5, Window.SECOND),
        Quota(5, Window.DAY),
    ]
    buckets = [Bucket(f"published.{number}", 0, Limit("one", limit)) for number, limit in enumerate(limits)]
    chance = random.Random(1)
    with ClockedStore(valkey_url) as store:
        now_us, denied = BEGIN_US, 0
        for _ in range(300):
            now_us += chance.choice([0, 1_000, 30_001, 300_000, MICRO])
            charges = [Charge((bucket,), (chance.choice([0, 1, 2]),)) for bucket in buckets]
            charges += [Charge(tuple(buckets), (1,) * len(buckets))]
            for result in store.charge(charges, now_us):
                denied += not result.charged
                assert result.charged or isinstance(result, Exhausted)
        assert denied > 300
        assert channel.read() == []
        store.charge([Charge((bucket,), (-1,)) for bucket in buckets], now_us)
        assert sorted(channel.read()) == [bucket.name for bucket in buckets]
        now_us += 86_400 * MICRO
        for step in range(2):  # of what nobody remembers a denial, see below, nothing is published but once
            for number, bucket in enumerate(buckets):
                name = b"published.%03d%03d" % (step, number)
                reserve = Charge((bucket,), (2,), reservation=Reserve(name, MICRO))
                assert store.charge([reserve], now_us)[0].charged
                store.charge([Charge((bucket,), (1 - 2,), reservation=Settle(name, (2,)))], now_us)
                store.charge([Charge((bucket,), (1,), reservation=Grant(name, MICRO, 1, 1, 1))], now_us)
                store.charge([Charge((bucket,), (0,), reservation=Return(name, 1))], now_us)
            assert step == 0 or channel.read() == []
            channel.read()
            now_us += 200_000
    channel.close()


def test_two_limits_of_one_bucket(valkey_url: str) -> None:
    """A charge by a faster limit may let in what a slower one denies: it says so once.

    And the slower one marks nothing until what it was charged has drained by itself.
    """
    channel = Channel(valkey_url)
    slow = Bucket("shared.by.two", 0, Limit("same", Quota(10, Window.HOUR)))
    fast = Bucket("shared.by.two", 0, Limit("same", TokenBucket(1_000, 100, MICRO)))
    start_us = BEGIN_US - BEGIN_US % (3_600 * MICRO)
    with ClockedStore(valkey_url) as store:
        store.charge([Charge((slow,), (10,))], start_us)
        (first,) = store.charge([Charge((slow,), (1,))], start_us + 1)
        assert isinstance(first, Exhausted)
        for number in range(5):
            (passed,) = store.charge([Charge((fast,), (1,))], start_us + 50_000 * number)
            assert passed.charged
        assert channel.read() == ["shared.by.two"]
        (allowed,) = store.charge([Charge((slow,), (1,))], start_us + 250_000)
        assert allowed.charged
        (denied,) = store.charge([Charge((slow,), (10,))], start_us + 250_001)
        assert not denied.charged
        assert not isinstance(denied, Exhausted)
        assert channel.read() == []
        later_us = start_us + 3_601 * MICRO
        store.charge([Charge((slow,), (10,))], later_us)
        (again,) = store.charge([Charge((slow,), (1,))], later_us)
        assert isinstance(again, Exhausted)
    channel.close()


def test_levels(valkey_url: str) -> None:
    """While a bucket has levels no denial is marked, and the charge that makes the first is announced."""
    channel = Channel(valkey_url)
    quota = Bucket("with.levels", 0, Limit("same", Quota(10, Window.HOUR)))
    small = Bucket("with.levels", 0, Limit("same", TokenBucket(5, 1, 60 * MICRO)))
    start_us = BEGIN_US - BEGIN_US % (3_600 * MICRO)
    with ClockedStore(valkey_url) as store:
        store.charge([Charge((quota,), (10,))], start_us)
        (first,) = store.charge([Charge((quota,), (1,))], start_us + 1)
        assert isinstance(first, Exhausted)
        (charged,) = store.charge([Charge((small,), (1,))], start_us + 120 * MICRO)
        assert charged.charged
        assert channel.read() == ["with.levels"]
        (denied,) = store.charge([Charge((quota,), (1,))], start_us + 121 * MICRO)
        assert not denied.charged
        assert not isinstance(denied, Exhausted)
        store.charge([Charge((small,), (1,))], start_us + 1_800 * MICRO)
        assert channel.read() == []
        (allowed,) = store.charge([Charge((quota,), (1,))], start_us + 1_800 * MICRO)
        assert allowed.charged
    channel.close()


@pytest.mark.parametrize("taken", [Reserve(b"may.be.returned", 60 * MICRO), Grant(b"may.be.returned", MICRO, 3, 1, 1)])
def test_what_may_be_returned(valkey_url: str, taken: Reserve | Grant) -> None:
    """Nothing is marked of a bucket of which something was reserved or granted, but of others as before."""
    bucket = Bucket(f"may.be.returned.{type(taken).__name__}", 0, Limit("one", Quota(3, Window.DAY)))
    other = Bucket("nothing.is.returned", 0, Limit("one", Quota(3, Window.DAY)))
    check = Charge((bucket,), (1,))
    with ClockedStore(valkey_url) as store:
        store.charge([Charge((bucket,), (3 if isinstance(taken, Reserve) else 1,), reservation=taken)], BEGIN_US)
        store.charge([Charge((other,), (3,))], BEGIN_US)
        assert not isinstance(store.charge([check], BEGIN_US + 1)[0], Exhausted)
        assert isinstance(store.charge([Charge((bucket, other), (0, 1))], BEGIN_US + 1)[0], Exhausted)
        assert isinstance(store.charge([Charge((bucket,), (4,))], BEGIN_US + 1)[0], Exhausted)
        again = store.charge([check], BEGIN_US + 24 * 3_600 * MICRO)[0]  # in the next window
    assert again.charged


def test_what_is_not_marked(valkey_url: str) -> None:
    """A slot may come back at any time, and a reservation is not denied from memory."""
    plain = Bucket("not.marked", 0, Limit("one", TokenBucket(1, 1, MICRO)))
    slots = Bucket("not.marked.slots", 0, Limit("at_once", Concurrency(1, MICRO)))
    with ClockedStore(valkey_url) as store:
        reserve = Charge((plain, slots), (1, 1), reservation=Reserve(b"not.marked.12345", MICRO))
        assert store.charge([reserve], BEGIN_US)[0].charged
        again = reserve._replace(reservation=Reserve(b"not.marked.12346", MICRO))
        (denied,) = store.charge([again], BEGIN_US)
        assert not denied.charged
        assert not isinstance(denied, Exhausted)
