"""What requests were prepared to is found as long as everything holds that it was worked out from."""

from decision.memory import START_US, ManualClock
from ratelimit_service.api.request_cache import RequestCache
from ratelimit_service.decision.policy import NO_EXPIRY, Validity


def test_found_as_long_as_every_lease_holds() -> None:
    """The first validity that ends ends it: one whose time has come, or one that was ended."""
    clock = ManualClock()
    known: RequestCache[str] = RequestCache(clock, 10)
    passing, lasting = Validity(START_US + 10), Validity()
    known.put(b"one", (lasting, passing), "prepared")
    known.put(b"other", (lasting,), "too")
    clock.time_us += 9
    assert (known.get(b"one"), known.get(b"other"), known.get(b"none")) == ("prepared", "too", None)
    clock.time_us += 1
    assert (known.get(b"one"), known.get(b"other")) == (None, "too")
    lasting.invalidate()
    assert known.get(b"other") is None


def test_what_has_ended_already_is_not_kept() -> None:
    """It would be in the way, and nobody could use it."""
    known: RequestCache[str] = RequestCache(ManualClock(), 10)
    known.put(b"one", (Validity(), Validity(START_US)), "prepared")
    assert len(known) == 0


def test_finding_counts_as_use() -> None:
    """A policy that is only ever found is not taken for one that nobody asks for."""
    known: RequestCache[str] = RequestCache(ManualClock(), 10)
    validity = Validity(NO_EXPIRY)
    known.put(b"one", (validity,), "prepared")
    assert not validity.used
    known.get(b"one")
    assert validity.used


def test_bounded() -> None:
    """However many different requests come, at most twice the size is kept, and what is in use is among it."""
    known: RequestCache[int] = RequestCache(ManualClock(), 10)
    validity = Validity()
    for number in range(1_000):
        known.put(b"%d" % number, (validity,), number)
        assert known.get(b"0") == 0
        assert len(known) <= 20
