"""The age of the changes that are in force is neither hidden nor made up by whatever fails."""

import asyncio

from decision.memory import MemoryFeed
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.feed_age import OLD_SECONDS, FeedAge
from ratelimit_service.decision.ports import Beat, Change, ChangeKind, Changes, Gap


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_it_grows_until_another_heartbeat_comes() -> None:
    """The age is that of the newest heartbeat: its lag when it was read, and the time since. The same again is none."""
    now = Time()
    age = FeedAge(now)
    age.caught_up(Beat("1", 0.25, 1_000.0))
    age.caught_up(Beat("2", 0.25, 1_000.0))
    assert age.seconds == 0.25
    now.seconds = 1_003.0
    age.caught_up(Beat("2", 3.25, 1_003.0))
    assert age.seconds == 3.25
    assert age.reason == ""
    now.seconds = 1_000.0 + OLD_SECONDS
    assert age.reason == "changes of the last 5 s are not in force: no heartbeat came through the change feed"
    age.caught_up(Beat("3", 0.5, now.seconds))
    assert age.seconds == 0.5


def test_what_was_before_this_process_is_not_its_age() -> None:
    """Where nobody wrote heartbeats for an hour, a process that starts and reads everything is not an hour behind."""
    now = Time()
    age = FeedAge(now)
    age.caught_up(Beat("1", 3_600.0, 1_000.0))
    assert age.seconds == 0
    now.seconds += 7
    assert age.seconds == 7


def test_clocks_that_step_change_nothing() -> None:
    """A lag below 0, as after the clock that writes was set back, counts as none; the age never is below 0."""
    now = Time()
    age = FeedAge(now)
    age.caught_up(Beat("1", 0.0, 1_000.0))
    age.caught_up(Beat("2", -3_600.0, 1_000.0))
    assert age.seconds == 0
    now.seconds += 2
    assert age.seconds == 2


class _Feed(MemoryFeed):
    """Returns what a test wants it to."""

    def __init__(self, *results: Changes) -> None:
        super().__init__()
        self.results = list(results)

    async def wait(self, after: int) -> Changes:  # noqa: ARG002
        if not self.results:
            await asyncio.Event().wait()
        return self.results.pop(0)


class _Cache:
    """Counts its refreshes, and fails to apply changes of one name."""

    def __init__(self) -> None:
        self.refreshed = 0

    async def refresh_all(self) -> None:
        self.refreshed += 1

    async def apply(self, changes: list[Change]) -> None:
        if any(change.name == "bad" for change in changes):
            raise ValueError("bad")


async def _follow(invalidator: CacheInvalidator) -> None:
    following = asyncio.create_task(invalidator.run())
    await asyncio.wait({following}, timeout=0.1)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_heartbeat_counts_once_all_changes_before_it_are_in_force() -> None:
    """Changes that a cache cannot apply keep the age growing, although the feed can be read."""
    beats = [Beat(str(number), 0.0, 0.0) for number in range(3)]
    good, bad = [[Change(ChangeKind.KEY, name)] for name in ("good", "bad")]
    invalidator = CacheInvalidator(_Feed(Changes(1, good, None, beats[1]), Changes(2, bad, None, beats[2])), _Cache())
    invalidator.age = age = FeedAge(lambda: 10.0)
    seen: list[str] = []
    age.caught_up = lambda beat: seen.append(beat.time)  # type: ignore[method-assign]
    await _follow(invalidator)
    assert seen == ["1"]


async def test_all_is_read_again_when_the_feed_went_back() -> None:
    """Each gap is counted by its cause, and followed by a refresh of everything."""
    cache = _Cache()
    invalidator = CacheInvalidator(_Feed(Changes(3, [], Gap.WENT_BACK), Changes(0, [], Gap.DROPPED)), cache)
    await _follow(invalidator)
    assert cache.refreshed == 3
    assert invalidator.gaps == dict.fromkeys(Gap, 0) | {Gap.WENT_BACK: 1, Gap.DROPPED: 1}
