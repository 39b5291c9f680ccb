"""The Lua script and the pure Python buckets agree on any history."""

from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from buckets.clocked import ClockedStore
from buckets.limits import limits
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MAX_TOKENS, Limit

_COSTS = st.one_of(
    st.just(1),
    st.integers(-3, 20),
    st.integers(-1_000_000, 1_000_000),
    st.integers(-MAX_TOKENS, MAX_TOKENS + 1),
    st.integers(MAX_TOKENS - 3, MAX_TOKENS + 1),
)
_STEPS_US = st.one_of(
    st.integers(-3, 3),
    st.integers(-1_000, 3_000),
    st.integers(-2_000_000, 2_000_000),
    st.integers(0, 86_400_000_000),
    st.integers(-40 * 86_400_000_000, 400 * 86_400_000_000),
)
_NAMES, _PLANS = 3, 6
_YEAR_2000, _YEAR_2100 = 946_684_800_000_000, 4_102_444_800_000_000
_runs = count()


class Agreement(RuleBasedStateMachine):
    """Makes the same charges in Lua and in Python and compares all results."""

    store: ClockedStore

    def __init__(self) -> None:
        super().__init__()
        self.run = next(_runs)
        self.reference = ReferenceBuckets()
        self.now_us = 0
        self.limits: list[Limit] = []

    @initialize(now_us=st.integers(_YEAR_2000, _YEAR_2100), drawn=st.lists(limits(), min_size=_PLANS, max_size=_PLANS))
    def begin(self, now_us: int, drawn: list[Limit]) -> None:
        """Begin some time in this century, with three buckets and the limits of six plans."""
        self.now_us = now_us
        self.limits = drawn

    @rule(step=_STEPS_US)
    def clock_moves(self, step: int) -> None:
        """Time passes, or the clock is set back."""
        self.now_us += step

    @rule(plan=st.integers(0, _PLANS - 1), limit=limits())
    def plan_changes(self, plan: int, limit: Limit) -> None:
        """A plan gets another limit, perhaps of another kind."""
        self.limits[plan] = limit

    @rule(
        batch=st.lists(
            st.tuples(
                st.lists(
                    st.tuples(st.integers(0, _NAMES - 1), st.integers(0, _PLANS - 1), _COSTS), min_size=1, max_size=3
                ),
                st.sampled_from(["", "", "", "first", "second"]),
                st.sampled_from([False, False, True]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def batch_is_charged(self, batch: list[tuple[list[tuple[int, int, int]], str, bool]]) -> None:
        """Several charges in one script, each of one to three buckets, by the limits of several plans."""
        charges = [
            Charge(
                tuple(Bucket(f"{self.run}.{which}", 0, self.limits[plan]) for which, plan, _ in parts),
                tuple(cost for _, _, cost in parts),
                request and f"{self.run}.{request}",
                afterwards=afterwards,
            )
            for parts, request, afterwards in batch
        ]
        assert self.store.charge(charges, self.now_us) == self.reference.charge(charges, self.now_us)


@pytest.mark.timeout(170)
@pytest.mark.parametrize(("room", "examples"), [(Room.PLENTY, 150), (Room.RESERVED, 20)])
def test_lua_and_python_agree(valkey_url: str, room: Room, examples: int) -> None:
    """Random limits, costs, changes of plan and kind, requests and clock steps give the same results in both.

    So they do while a server has room only for buckets like these, which administrators alone make more of.
    """
    with ClockedStore(valkey_url, "clock:model", room=room) as store:
        Agreement.store = store
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Agreement,
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
