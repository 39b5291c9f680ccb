"""Plain charges are decided without the script's other functions, which cost more than such a charge itself."""

import random
import struct

import pytest
import redis

from buckets.clocked import ClockedStore, clocked_scripts
from buckets.conftest import MakeBucket
from ratelimit_service.buckets.redis.script import Script, bucket_key
from ratelimit_service.decision.charge import Bucket, Charge, Counted, Exhausted, Reserve
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage import Series

NOW_US = 1_800_000_000_000_000
MAX_US = 2**53 - 1
MADE_HERE = "local function make_others()"
PLAIN_IF = "local plain = ROOM_LEFT == 0 and"


@pytest.fixture(autouse=True)
def _nothing_counted(emptied_valkey_url: str) -> None:
    redis.Redis.from_url(emptied_valkey_url).flushdb()


class PlainOnly(ClockedStore):
    """A store whose script has nothing but plain.lua."""

    def scripts(self) -> tuple[Script, ...]:
        """The script that it charges with."""
        text = clocked_scripts(self._key)[0].text.decode().partition("\n")[2]
        assert text.count(MADE_HERE) == 1
        return (Script(text.replace(MADE_HERE, f"{MADE_HERE}\n  error('not plain')")),)


class OthersOnly(ClockedStore):
    """A store whose script takes no charge for plain."""

    def scripts(self) -> tuple[Script, ...]:
        """The script that it charges with."""
        text = clocked_scripts(self._key)[0].text.decode().partition("\n")[2]
        assert text.count(PLAIN_IF) == 1
        return (Script(text.replace(PLAIN_IF, f"{PLAIN_IF} false and")),)


@pytest.mark.parametrize(
    "limit",
    [
        Limit("bucket", TokenBucket(3, 7, MICRO)),
        Limit("shadow", TokenBucket(3, 7, MICRO), mode=Mode.SHADOW),
        *(Limit("quota", Quota(3, window)) for window in (Window.SECOND, Window.MINUTE, Window.HOUR, Window.DAY)),
    ],
    ids=lambda limit: limit.name,
)
def test_what_is_plain(emptied_valkey_url: str, bucket: MakeBucket, limit: Limit) -> None:
    """Buckets and windows up to a day: allowed, denied, peeked at, and filled again in part."""
    one, other = bucket(limit), bucket(Limit("other", Quota(9, Window.DAY)))
    with PlainOnly(emptied_valkey_url) as store:
        made = [store.charge([Charge((one, other), (2, 1))], NOW_US + step) for step in (0, 50_000, 150_001)]
        store.charge([Charge((one,), (0,)), Charge((other,), (1,))], NOW_US + MICRO)
    enforced = limit.mode is Mode.ENFORCE
    assert [each[0].charged for each in made[:2]] == [True, not enforced]
    assert made[1][0].limit_results[0].wait_us > 0


def test_counts_of_known_series_are_plain(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """Those that have a count of this minute."""
    one = bucket(Limit("bucket", TokenBucket(3, 7, MICRO)))
    charge = Charge((one,), (1,), "", (Counted(Series.of_rule("edge", "path", ["bucket"]), 1),))
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([charge], NOW_US)
    with PlainOnly(emptied_valkey_url) as store:
        store.charge([charge, charge], NOW_US)
    counts = redis.Redis.from_url(emptied_valkey_url).hgetall("{u}:u:o")
    assert sorted(map(len, counts.values())) == [16, 72]


def test_a_denial_beside_allowed_calls_is_counted(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """Of a series that has had none yet in this minute."""
    counted = (Counted(Series.of_rule("edge", "path", ["quota"]), 1),)
    charge = Charge((bucket(Limit("quota", Quota(3, Window.DAY))),), (1,), "", counted)
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([charge], NOW_US)
        store.charge([charge] * 3, NOW_US)
    counts = redis.Redis.from_url(emptied_valkey_url).hgetall("{u}:u:o")
    (value,) = (value for field, value in counts.items() if field)
    assert struct.unpack("<ddd", value[:24]) == (3, 3, 1)


def test_a_state_is_kept_for_no_longer_than_a_double_counts(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """Until 2^53 microseconds after 1970; this bucket takes 280 years to fill."""
    one = bucket(Limit("slow", TokenBucket(3_300, 1, 31 * 86_400 * MICRO)))
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([Charge((one,), (3_300,))], NOW_US)
    kept_ms = redis.Redis.from_url(emptied_valkey_url).pttl(bucket_key(one))
    assert kept_ms == pytest.approx((MAX_US - NOW_US) / 1_000, rel=1e-6)


def test_counts_after_a_denial_are_plain(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """They stay beside it."""
    limit = Limit("quota", Quota(1, Window.DAY))
    counted = (Counted(Series.of_rule("edge", "path", ["quota"]), 1),)
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([Charge((bucket(limit),), (cost,), "", counted) for cost in (1, 2)], NOW_US)
    with PlainOnly(emptied_valkey_url) as store:
        store.charge([Charge((bucket(limit),), (1,), "", counted)], NOW_US)
    counts = redis.Redis.from_url(emptied_valkey_url).hgetall("{u}:u:o")
    (value,) = (value for field, value in counts.items() if field)
    assert struct.unpack("<ddd", value[:24]) == (2, 2, 1)


def test_a_count_that_fails_fails_no_charge(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """It is lost, and counted as such."""
    client = redis.Redis.from_url(emptied_valkey_url)
    counted = (Counted(Series.of_rule("edge", "path", ["quota"]), 1),)
    charge = Charge((bucket(Limit("quota", Quota(9, Window.DAY))),), (1,), "", counted)
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([charge], NOW_US)
        client.acl_setuser("default", enabled=True, nopass=True, commands=["-hset"])
        try:
            (result,) = store.charge([charge], NOW_US)
        finally:
            client.acl_setuser("default", enabled=True, nopass=True, commands=["+hset"])
    assert result.charged
    assert client.hget("{u}:u:n", "lost") == b"1"


@pytest.mark.parametrize("seed", range(4))
def test_others_decide_the_same(emptied_valkey_url: str, seed: int) -> None:
    """To the last bit: what is replied, whether only time ends a denial, and what is kept."""
    made = []
    for store in (ClockedStore(emptied_valkey_url), OthersOnly(emptied_valkey_url)):
        chance, now_us, results = random.Random(seed), NOW_US, []
        client = redis.Redis.from_url(emptied_valkey_url)
        client.flushdb()
        with store:
            for _ in range(60):
                now_us += chance.choice([0, 1, 999, 20_000, 500_000, MICRO, 61 * MICRO])
                results += store.charge([some_charge(chance) for _ in range(chance.choice([1, 1, 1, 5]))], now_us)
        keys = sorted(client.keys("*:b:*"))
        kept, ends = [(key, client.get(key)) for key in keys], [client.pttl(key) for key in keys]
        counts = {field: value for field, value in client.hgetall("{u}:u:o").items() if field}
        made.append(([(type(result), result) for result in results], kept, counts, ends))
    (*plain, plain_ends), (*others, others_ends) = made
    assert plain == others
    assert plain_ends == pytest.approx(others_ends, abs=50_000)  # milliseconds, as long as the machine may take


LIMITS = (
    Limit("bucket", TokenBucket(9, 7, 3 * MICRO)),
    Limit("faster", TokenBucket(9, 5, MICRO)),
    Limit("shadow", TokenBucket(4, 3, MICRO), mode=Mode.SHADOW),
    Limit("minute", Quota(20, Window.MINUTE)),
    Limit("day", Quota(300, Window.DAY)),
)


def some_charge(chance: random.Random) -> Charge:
    """One of up to three limits, now and then with a cost that never fits; two of them share a bucket."""
    limits = chance.sample(LIMITS, chance.choice([1, 1, 2, 3]))
    names = [f"{chance.choice('abc')}.{limit.name.replace('faster', 'bucket')}" for limit in limits]
    cost = chance.choice([0, 1, 1, 1, 2, 5, 400])
    counted = (Counted(Series.of_rule("edge", names[0], [limit.name for limit in limits]), cost),) if cost else ()
    buckets = tuple(Bucket(name, 0, limit) for name, limit in zip(names, limits, strict=True))
    return Charge(buckets, (cost,) * len(limits), "", counted)


@pytest.mark.parametrize("window", [Window.WEEK, Window.YEAR])
def test_what_is_not(emptied_valkey_url: str, bucket: MakeBucket, window: Window) -> None:
    """That the tests above would see it."""
    with PlainOnly(emptied_valkey_url) as store, pytest.raises(StoreUnavailable, match="not plain"):
        store.charge([Charge((bucket(Limit("quota", Quota(3, window))),), (1,))], NOW_US)


def test_a_batch_of_both(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """What is decided there heeds what others have just done: a settlement may end this denial."""
    one = bucket(Limit("quota", Quota(3, Window.DAY)))
    plain = Charge((one,), (1,))
    with ClockedStore(emptied_valkey_url) as store:
        _, after_reservation = store.charge([Charge((one,), (3,), reservation=Reserve(b"held", MICRO)), plain], NOW_US)
        _, alone = store.charge([Charge((one,), (-3,)), plain], NOW_US)
    assert not after_reservation.charged
    assert not isinstance(after_reservation, Exhausted)
    assert alone.charged


def test_a_bucket_that_is_there_twice(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """Both costs count, as those of the two limits that share it."""
    one = bucket(Limit("quota", Quota(4, Window.DAY)))
    with ClockedStore(emptied_valkey_url) as store:
        made = [store.charge([Charge((one, one), costs)], NOW_US)[0].charged for costs in ((3, 2), (2, 2), (0, 1))]
    assert made == [False, True, False]


def test_a_denied_charge_shows_what_is_there_without_it(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """As a peek does, for each bucket that has room."""
    kinds = TokenBucket(10, 7, MICRO), Quota(10, Window.DAY)
    roomy = tuple(bucket(Limit(name, kind)) for name in ("used", "unused") for kind in kinds)
    full = bucket(Limit("full", Quota(1, Window.DAY)))
    with ClockedStore(emptied_valkey_url) as store:
        store.charge([Charge(roomy[:2], (3, 3))], NOW_US)
        (denied,) = store.charge([Charge((*roomy, full), (2,) * 5)], NOW_US + 1_000)
        (peeked,) = store.charge([Charge(roomy, (0,) * 4)], NOW_US + 1_000)
    assert not denied.charged
    assert denied.limit_results[:4] == peeked.limit_results


def test_a_plain_state_is_the_same_to_both(emptied_valkey_url: str, bucket: MakeBucket) -> None:
    """The bytes that plain.lua writes are those that the other functions write."""
    one = bucket(Limit("bucket", TokenBucket(10, 7, 3 * MICRO)))
    client = redis.Redis.from_url(emptied_valkey_url)
    states = []
    for request in ("", "made by others.lua"):
        client.delete(bucket_key(one))
        with ClockedStore(emptied_valkey_url) as store:
            for step in (0, 100_001, 300_007):
                store.charge([Charge((one,), (2,), request and f"{request} {step}")], NOW_US + step)
        states.append((client.get(bucket_key(one)), client.pttl(bucket_key(one)) // 1_000))
    assert states[0] == states[1]
    assert len(states[0][0]) == 40
