"""Prepared requests are found as long as everything is valid that they were computed from."""

from decision.memory import START_US, ManualClock
from ratelimit_service.api.request_cache import MAX_PER_KEY, RequestCache
from ratelimit_service.decision.policy import NO_EXPIRY, Validity


def test_found_as_long_as_every_validity_holds() -> None:
    """The first validity that ends ends it: one that expires, or one that is ended."""
    clock = ManualClock()
    cache: RequestCache[str] = RequestCache(clock, 10)
    passing, lasting = Validity(START_US + 10), Validity()
    for _ in range(2):
        cache.put(b"one", (lasting, passing), "prepared")
        cache.put(b"other", (lasting,), "too")
    clock.time_us += 9
    assert (cache.get(b"one"), cache.get(b"other"), cache.get(b"none")) == ("prepared", "too", None)
    clock.time_us += 1
    assert (cache.get(b"one"), cache.get(b"other")) == (None, "too")
    lasting.invalidate()
    assert cache.get(b"other") is None


def test_what_has_ended_already_is_not_kept() -> None:
    """It could never be used."""
    cache: RequestCache[str] = RequestCache(ManualClock(), 10)
    for _ in range(2):
        cache.put(b"one", (Validity(), Validity(START_US)), "prepared")
    assert len(cache) == 0


def test_finding_counts_as_use() -> None:
    """A policy that is only ever found in this cache counts as used."""
    cache: RequestCache[str] = RequestCache(ManualClock(), 10)
    validity = Validity(NO_EXPIRY)
    for _ in range(2):
        cache.put(b"one", (validity,), "prepared")
    assert not validity.used
    cache.get(b"one")
    assert validity.used


def test_bounded() -> None:
    """However many different requests come, at most the size is kept, and what is in use is among it."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 10)
    validity = Validity()
    for number in range(1_000):
        for _ in range(2):
            cache.put(b"%d" % number, (validity,), number)
        assert cache.get(b"0") == 0
        assert len(cache) <= 10


def test_bounded_when_all_are_in_use() -> None:
    """One in use gives way then, after a few were passed."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 1_000)
    validity = Validity()
    for number in range(2_000):
        for _ in range(2):
            cache.put(b"%d" % number, (validity,), number)
        assert cache.get(b"%d" % number) == number
    assert len(cache) == 1_000


def test_what_is_no_longer_valid_gives_way() -> None:
    """Requests of policies that were evicted do not pile up in a cache that is far from full."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 10_000)
    for number in range(1_000):
        validity = Validity()
        for _ in range(2):
            cache.put(b"%d" % number, (validity,), number)
        validity.invalidate()
        assert len(cache) <= 2


def test_large_requests_are_few() -> None:
    """Requests of many descriptors, a kilobyte of memory each, are kept for a 64th of the number, beside the others."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 640)
    validity = Validity()
    for _ in range(2):
        cache.put(b"small", (validity,), -1, parts=4)
    for number in range(1_000):
        for _ in range(2):
            cache.put(b"%d" % number, (validity,), number, parts=5)
        assert cache.get(b"%d" % number) == number
        assert len(cache) <= 1 + 10
    assert cache.get(b"small") == -1


def test_what_comes_once_is_not_kept() -> None:
    """However many different requests come once each, none is kept; one that comes again is, in the midst of them."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 10)
    validity = Validity()
    for number in range(1_000):
        cache.put(b"%d" % number, (validity,), number)
        assert len(cache) == 0
    for number in (7, 8, 7):
        cache.put(b"%d" % number, (validity,), number)
    assert (len(cache), cache.get(b"7")) == (1, 7)


def test_requests_of_one_key_are_bounded() -> None:
    """One key's requests are cached up to a bound of its own, and anew when the cache has turned over."""
    cache: RequestCache[int] = RequestCache(ManualClock(), 5 * MAX_PER_KEY)
    validity = Validity()

    def cached(key_id: str, numbers: range) -> int:
        digests = [f"{key_id} {number}".encode() for number in numbers]
        for digest in digests:
            for _ in range(2):
                cache.put(digest, (validity,), 1, key_id)
        return sum(cache.get(digest) is not None for digest in digests)

    assert cached("one", range(2 * MAX_PER_KEY)) == MAX_PER_KEY
    assert cached("two", range(MAX_PER_KEY)) == MAX_PER_KEY
    assert cached("", range(2 * MAX_PER_KEY)) == 2 * MAX_PER_KEY
    assert cached("one", range(2 * MAX_PER_KEY, 2 * MAX_PER_KEY + 10)) == 0
    cached("", range(2 * MAX_PER_KEY, 4 * MAX_PER_KEY))
    assert cached("one", range(3 * MAX_PER_KEY, 3 * MAX_PER_KEY + 10)) == 10
