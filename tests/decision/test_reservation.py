"""The ids of reservations."""

import random
import string

import pytest

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import MICRO, Concurrency, Counting, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.reservation import MAX_ID, Reservation, ReservationIds, pack, unpack
from ratelimit_service.decision.usage import Series

IDS = ReservationIds([b"new", b"old"])
LIMITS = [
    Limit("bucket", TokenBucket(10, 3, 1_007), mode=Mode.SHADOW, overdraft=7),
    Limit("quota", Quota(9, Window.MONTH), counts=Counting.CALLS),
    Limit("slots", Concurrency(4, 30 * MICRO)),
]


def reservation(limits: list[Limit], resource: str = "orders", subject: str = "acme") -> Reservation:
    """What calls with these limits are reserved from."""
    buckets = tuple(Bucket(random.randbytes(12).hex(), 17, limit) for limit in limits)
    return Reservation(
        "k" * 16, buckets, Series.of_key("k" * 16, resource, subject, "pro", [one.name for one in limits])
    )


def test_what_an_id_says_comes_back() -> None:
    """Limits of every kind, and what calls count for; and the estimate, to the largest."""
    made = reservation(LIMITS, "Ünïcode \u2603")
    for estimate in (0, 1, 9_007_199_254):
        named = IDS.read(IDS.make(pack(made), estimate).id)
        found = unpack(named.packed)
        assert named.estimate == estimate
        assert (found.key_id, found.series.field) == (made.key_id, made.series.field)
        for one, other in zip(found.buckets, made.buckets, strict=True):
            assert (one.name, one.partition, one.limit) == (other.name, other.partition, other.limit)


def test_reservations_have_the_limits_of_a_plan_in_common() -> None:
    """Each is kept read once, and so encoded once: a limit of each reservation would push out those of others."""
    limits = [Limit("burst", TokenBucket(5, 1, MICRO))]
    (one,), (another,) = (unpack(pack(reservation(limits, subject=subject))).buckets for subject in ("acme", "umbra"))
    assert one.name != another.name
    assert one.limit is another.limit


def test_ids_differ_but_for_the_same_request() -> None:
    """Then their names are the same, even if what they say has changed meanwhile."""
    packed = pack(reservation(LIMITS))
    assert len({IDS.make(packed, 1).name for _ in range(1_000)}) == 1_000
    assert IDS.make(packed, 1, "one") == IDS.make(packed, 1, "one")
    assert IDS.make(packed, 1, "one").name == IDS.make(pack(reservation(LIMITS)), 2, "one").name
    assert IDS.make(packed, 1, "one").name != IDS.make(packed, 1, "two").name


def test_what_was_made_with_an_earlier_pepper_is_read() -> None:
    """And what was made with none that this server has is not."""
    packed = pack(reservation(LIMITS))
    assert IDS.read(ReservationIds([b"old"]).make(packed, 5).id).estimate == 5
    with pytest.raises(ValueError, match="peppers"):
        IDS.read(ReservationIds([b"other"]).make(packed, 5).id)


@pytest.mark.parametrize("made_up", ["", "x", "A" * 100, "ü", "A" * (MAX_ID + 1), "!?*", "=" * 10])
def test_what_is_no_id(made_up: str) -> None:
    """Raises what its reader expects."""
    with pytest.raises(ValueError, match=r"."):
        IDS.read(made_up)


def test_the_longest_id_is_read() -> None:
    """That of as many limits as a key can have, with names as long as can be, and texts that take most bytes."""
    letters = string.ascii_lowercase + string.digits
    limits = [
        Limit("".join(random.choices(letters, k=64)), TokenBucket(9_000_000_000 - number, 9_999_999, 2_678_399_000_000))
        for number in range(48)
    ]
    made = reservation(limits, resource="é" * 128, subject="é" * 64)
    text = IDS.make(pack(made), 9_007_199_254).id
    assert len(text) <= MAX_ID
    assert len(unpack(IDS.read(text).packed).buckets) == 48
    assert len(IDS.make(pack(reservation(LIMITS[:1])), 1).id) <= 300


def test_no_id_begins_like_an_option() -> None:
    """`settle ID` takes each for what it is, and each has one spelling."""
    ids = ReservationIds([b"secret"])
    made = [ids.make(b"packed", number).id for number in range(2_000)]
    assert not any(each.startswith("-") for each in made)
    replaced = [each for each in made if each.startswith("~")]
    assert replaced
    for each in replaced:
        ids.read(each)
        with pytest.raises(ValueError, match="as it was written"):
            ids.read("-" + each[1:])
