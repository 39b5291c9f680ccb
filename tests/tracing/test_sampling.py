"""Which calls are recorded."""

from ratelimit_service.tracing.sampling import Sampler
from tracing.test_context import SPAN, TRACE

SAMPLED, QUIET = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Drawn:
    """A random number and a clock, both set by the test."""

    number = 0.5
    seconds = 100.0

    def sampler(self, traced: float, logged: float, followed: int) -> Sampler:
        return Sampler(traced, logged, followed, lambda: self.number, lambda: self.seconds)


def test_the_smaller_share_is_a_part_of_the_larger() -> None:
    """A call without a trace is traced and logged by one number; beyond both shares nothing is made of it."""
    drawn = Drawn()
    sampler = drawn.sampler(0.2, 0.4, 0)
    found = []
    for drawn.number in (0.1, 0.3, 0.5):
        call = sampler.begin(None)
        found.append(None if call is None else (call.traced, call.logged))
    assert found == [(True, True), (False, True), None]


def test_a_caller_that_does_not_record_is_not_traced() -> None:
    """Whatever the share is. The access log does not depend on it."""
    drawn = Drawn()
    assert drawn.sampler(1.0, 0.0, 100).begin(QUIET) is None
    call = drawn.sampler(1.0, 1.0, 100).begin(QUIET.encode())
    assert call is not None
    assert (call.traced, call.logged, call.follows) == (False, True, False)


def test_a_trusted_caller_is_followed_up_to_the_rate() -> None:
    """So many a second, in its trace; the share decides beyond that. Others are not followed, and use nothing up."""
    drawn = Drawn()
    sampler = drawn.sampler(0.01, 0.0, 2)

    def traced(*, trusted: bool) -> bool:
        call = sampler.begin(SAMPLED)
        if call is None:
            return False
        assert not call.traced
        sampler.follow(call, trusted=trusted)
        assert call.ref.trace_id == int(TRACE, 16)
        return call.traced

    assert [traced(trusted=False) for _ in range(5)] == [False] * 5
    assert [traced(trusted=True) for _ in range(4)] == [True, True, False, False]
    assert sampler.begin(SAMPLED) is None
    drawn.seconds += 1.0
    assert traced(trusted=True)
    drawn.number = 0.001
    call = sampler.begin(SAMPLED)
    assert call is not None
    assert (call.traced, call.follows) == (True, False)


def test_nobody_is_followed_at_a_rate_of_0() -> None:
    """What has a share still has it: also where the trace begins anew, because what was sent is no trace."""
    drawn = Drawn()
    sampler = drawn.sampler(0.6, 0.0, 0)
    call = sampler.begin(SAMPLED)
    assert call is not None
    assert call.ref.trace_id == int(TRACE, 16)
    call = sampler.begin("nonsense")
    assert call is not None
    assert call.ref.trace_id != int(TRACE, 16)
    drawn.number = 0.7
    assert sampler.begin(SAMPLED) is None
