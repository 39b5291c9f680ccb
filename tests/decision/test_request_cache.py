"""What requests were prepared to is recalled as long as everything holds that it was worked out from."""

from decision.memory import START_US, ManualClock
from ratelimit_service.decision.policy import NO_END, Validity
from ratelimit_service.decision.request_cache import RequestCache


def test_recalled_as_long_as_every_lease_holds() -> None:
    """The first validity that ends ends it: one whose time has come, or one that was ended."""
    clock = ManualClock()
    known: RequestCache[str] = RequestCache(clock, 10)
    passing, lasting = Validity(START_US + 10), Validity()
    known.remember(b"one", (lasting, passing), "prepared")
    known.remember(b"other", (lasting,), "too")
    clock.time_us += 9
    assert (known.recall(b"one"), known.recall(b"other"), known.recall(b"none")) == ("prepared", "too", None)
    clock.time_us += 1
    assert (known.recall(b"one"), known.recall(b"other")) == (None, "too")
    lasting.end()
    assert known.recall(b"other") is None


def test_what_has_ended_already_is_not_kept() -> None:
    """It would be in the way, and nobody could use it."""
    known: RequestCache[str] = RequestCache(ManualClock(), 10)
    known.remember(b"one", (Validity(), Validity(START_US)), "prepared")
    assert len(known) == 0


def test_recalling_counts_as_use() -> None:
    """A policy that is only ever recalled is not taken for one that nobody asks for."""
    known: RequestCache[str] = RequestCache(ManualClock(), 10)
    validity = Validity(NO_END)
    known.remember(b"one", (validity,), "prepared")
    assert not validity.used
    known.recall(b"one")
    assert validity.used


def test_bounded() -> None:
    """However many different requests come, at most twice the size is kept, and what is in use is among it."""
    known: RequestCache[int] = RequestCache(ManualClock(), 10)
    validity = Validity()
    for number in range(1_000):
        known.remember(b"%d" % number, (validity,), number)
        assert known.recall(b"0") == 0
        assert len(known) <= 20
