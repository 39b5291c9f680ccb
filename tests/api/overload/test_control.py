"""The bound of calls in flight, and what becomes of calls beyond it."""

import asyncio

import pytest

from ratelimit_service.api.fallback import no_fallback
from ratelimit_service.api.overload import control as module
from ratelimit_service.api.overload.control import (
    INTERVAL,
    MAX_BOUND,
    MAX_WAIT,
    MIN_BOUND,
    TARGET,
    Cause,
    OverloadControl,
)
from ratelimit_service.api.overload.fair_queue import Generation, Share, Turn
from ratelimit_service.api.overload.shedding import Shedding
from ratelimit_service.errors import InvalidArgument, Overloaded

ONE, OTHER = Share("", 1), Share("", 2)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """The clock of `control`."""
    return Clock()


@pytest.fixture
def control(clock: Clock) -> OverloadControl:
    """A control with a bound of MIN_BOUND, which is reached."""
    control = OverloadControl(clock)
    control.bound = MIN_BOUND
    return control


def fill(control: OverloadControl) -> list[Generation]:
    """Begin as many calls as may be in flight."""
    begun = []
    while (generation := control.begin()) is not None:
        begun.append(generation)
    return begun


def queued(control: OverloadControl, share: Share = ONE, deadline: float | None = None) -> Turn:
    """A call that waits."""
    turn = control.wait(share, deadline)
    assert turn is not None
    return turn


async def test_a_call_beyond_the_bound_begins_when_another_ends(control: OverloadControl) -> None:
    """Up to the bound calls begin at once; the next one waits until one of them has ended."""
    begun = fill(control)
    assert len(begun) == MIN_BOUND
    turn = queued(control)
    assert not turn.done()
    control.end(begun[0], 0.001)
    assert turn.result() is not None
    assert control.in_flight == MIN_BOUND


async def test_waits_and_delays_are_reported(control: OverloadControl, clock: Clock) -> None:
    """How long each call has waited, whether it begins or is refused then; and how late the event loop was at most."""
    waits: list[float] = []
    control.waited = waits.append
    begun = fill(control)
    queued(control)
    queued(control)
    assert waits == []
    clock.seconds += 0.02
    control.end(begun[0], 0.001)
    assert waits == pytest.approx([0.02])
    clock.seconds += MAX_WAIT
    control._sweep()
    assert waits == pytest.approx([0.02, 0.02 + MAX_WAIT])
    for late in (0.001, 0.03, 0.002):
        control.adapt(late)
    assert control.take_longest_delay() == 0.03
    assert control.take_longest_delay() == 0


async def test_what_cannot_be_answered_in_time_is_refused_at_once(control: OverloadControl, clock: Clock) -> None:
    """A call with no more time left than calls take does not wait."""
    fill(control)
    control.takes = 0.004
    assert control.wait(ONE, clock.seconds + 0.003) is None
    assert control.wait(ONE, clock.seconds + 0.010) is not None
    assert control.refused[Cause.DEADLINE] == 1


async def test_a_call_waits_until_its_deadline_is_near(control: OverloadControl, clock: Clock) -> None:
    """A call whose turn does not come is refused while its caller still waits for that answer; or after MAX_WAIT."""
    fill(control)
    control.takes = 0.004
    soon, never = queued(control, deadline=clock.seconds + 0.025), queued(control)
    await asyncio.sleep(0.01)
    assert not soon.done()
    clock.seconds += 0.020
    await asyncio.sleep(0.01)
    assert soon.done()
    assert soon.result() is None
    assert not never.done()
    clock.seconds += MAX_WAIT
    await asyncio.sleep(0.01)
    assert never.result() is None
    assert control.refused[Cause.QUEUE_AGE] == 2


async def test_the_newest_call_is_next_once_the_oldest_would_be_late(control: OverloadControl, clock: Clock) -> None:
    """In order as long as all can be in time; when not, the one that has the most time left."""
    begun = fill(control)
    first, second, third = (queued(control, deadline=clock.seconds + 0.025) for _ in range(3))
    control.end(begun[0], 0.001)
    assert first.done()
    assert not second.done()
    clock.seconds += 0.020
    fourth = queued(control, deadline=clock.seconds + 0.025)
    control.takes = 0.002
    control.end(begun[1], 0.001)
    assert fourth.done()
    assert not second.done()
    assert not third.done()


async def test_a_full_queue_refuses_the_caller_with_the_most_calls(
    control: OverloadControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls one sends, those of another are not refused for them."""
    monkeypatch.setattr(module, "MAX_WAITING", 64)
    fill(control)
    mine = [queued(control, OTHER) for _ in range(8)]
    greedy = [queued(control, ONE) for _ in range(200)]
    assert not any(turn.done() for turn in mine)
    assert sum(turn.done() for turn in greedy) == 200 - 56
    assert control.refused[Cause.SHARE] == 200 - 56


async def test_the_bound_follows_a_standing_queue(control: OverloadControl) -> None:
    """It shrinks while even the fastest call waits too long, and grows while it is reached and none does."""
    control.bound = 400
    begun = fill(control)
    for generation in begun[:100]:
        control.end(generation, 2 * TARGET)
    control.adapt(0.0)
    assert MIN_BOUND < control.bound < 400
    shrunk = control.bound
    queued(control)
    control.end(begun[100], TARGET / 2)
    control.adapt(0.0)
    assert control.bound > shrunk


async def test_a_slow_store_is_no_queue(control: OverloadControl) -> None:
    """Time that the bucket store takes does not shrink the bound."""
    control.bound = 400
    begun = fill(control)
    control.answered_round_trip(0.020)
    control.end(begun[0], 0.040)
    control.adapt(0.0)
    assert control.bound == 400


async def test_without_overload_nothing_is_bounded(clock: Clock) -> None:
    """Calls that take long, one after the other, do not shrink the bound below what is in flight."""
    control = OverloadControl(clock)
    assert control.bound == MAX_BOUND
    for _ in range(50):
        generation = control.begin()
        assert generation is not None
        control.end(generation, 0.5)
        control.adapt(0.0)
    assert control.bound >= MIN_BOUND
    assert control.begin() is not None


async def test_calls_that_never_end_do_not_keep_others_out(control: OverloadControl) -> None:
    """After two intervals a call that has not ended takes no place: callers that send no message keep nobody out."""
    stuck = fill(control)
    assert control.begin() is None
    control.adapt(0.0)
    control.adapt(0.0)
    assert len(fill(control)) == MIN_BOUND
    for generation in stuck:
        control.end(generation, None)
    assert control.in_flight == MIN_BOUND


async def test_a_stream_is_opened_unless_calls_wait(control: OverloadControl) -> None:
    """A stream has no turn: it is refused while calls wait."""
    control.check_open(ONE)
    fill(control)
    queued(control)
    with pytest.raises(Overloaded):
        control.check_open(ONE)


async def test_overload_is_denied_only_where_that_is_set() -> None:
    """RATELIMIT_ON_OVERLOAD=deny replaces OVERLOADED, and no other error."""
    error, other = module.OVERLOADED, InvalidArgument.of("cost", "is wrong")
    assert OverloadControl().fallback(no_fallback, b"denied")(error) is None
    denying = OverloadControl(denies=True).fallback(no_fallback, b"denied")
    assert denying(error) == b"denied"
    assert denying(other) is None


async def test_calls_are_shed_in_front_only_while_refusals_of_many_prevail(control: OverloadControl) -> None:
    """Neither a few refusals nor those of one connection, however many, have Envoy refuse the calls of all."""
    shedding = Shedding(control)
    control.answered, control.refused_of = 100, {1: 5_000, 2: 60}
    assert shedding.adapt() == 0
    control.answered, control.refused_of = 200, {1: 5_000, 2: 500, 3: 500}
    assert shedding.adapt() > 0
    percents = []
    for _ in range(20):
        control.answered += 1_000
        percents.append(shedding.adapt())
    assert percents[-1] == 0


async def test_calls_are_shed_only_while_envoy_cannot_keep_up(control: OverloadControl) -> None:
    """Calls that many begin for nothing do not have others refused, as long as Envoy gets to them."""
    shedding = Shedding(control)
    for _ in range(10):
        control.refused_of = dict.fromkeys(range(40), 100)
        assert shedding.adapt(saturated=False) == 0
    control.refused_of = dict.fromkeys(range(40), 100)
    first = shedding.adapt(saturated=True)
    assert first > 0
    control.congested = True
    assert shedding.adapt(saturated=True) > first
    control.congested = False
    for _ in range(60):
        control.refused_of = dict.fromkeys(range(40), 100)
        percent = shedding.adapt(saturated=False)
    assert percent == 0


async def test_calls_whose_message_does_not_come_are_no_queue(control: OverloadControl) -> None:
    """The bound does not shrink for them, however busy the loop is; it does for calls that have all that they need."""
    for bare, bound in ((5, MAX_BOUND), (4, MIN_BOUND)):
        control.bound = MAX_BOUND
        control.bare_since = lambda _since, bare=bare: bare
        begun = [control.begin() for _ in range(5)]
        control.adapt(0.010)
        assert control.bound == bound
        for generation in begun:
            assert generation is not None
            control.end(generation, None)


async def test_calls_whose_key_is_read_are_no_queue(control: OverloadControl) -> None:
    """What a call took that waited for its key is no sign of a queue, so whoever makes up keys shrinks no bound."""
    control.bound = MAX_BOUND

    async def call(*, excused: bool) -> None:
        generation = control.begin()
        assert generation is not None
        if excused:
            async with control.excuse():
                pass
        control.end(generation, 0.25)

    await asyncio.create_task(call(excused=True))
    control.adapt(0.0)
    assert control.bound == MAX_BOUND
    await asyncio.create_task(call(excused=False))
    control.adapt(0.0)
    assert control.bound < MAX_BOUND


async def test_counts_by_caller_that_nobody_takes_are_dropped(control: OverloadControl) -> None:
    """On a transport without a proxy in front nobody does: they do not grow with every connection."""
    control.count_wasted(1)
    for _ in range(10):
        control.adapt(0.0)
    assert control.take_refused_of() == {1: 1}
    for connection in range(1_000):
        control.count_wasted(connection)
        control.adapt(0.0)
    assert len(control.refused_of) < 200


async def test_an_idle_server_is_seldom_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is adapted while there are calls, from the first one on, and not while there are none."""
    control, adapted = OverloadControl(), []
    adapt = control.adapt
    monkeypatch.setattr(control, "adapt", lambda late: (adapted.append(late), adapt(late)))
    running = asyncio.create_task(control.run())
    await asyncio.sleep(8 * INTERVAL)
    assert len(adapted) == 1
    generation = control.begin()
    assert generation
    await asyncio.sleep(4 * INTERVAL)
    assert len(adapted) > 1
    control.end(generation, 0.001)
    await asyncio.sleep(4 * INTERVAL)
    before = len(adapted)
    await asyncio.sleep(8 * INTERVAL)
    assert len(adapted) <= before + 1
    running.cancel()
