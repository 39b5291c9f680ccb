"""The Lua script and the pure Python buckets agree on any history."""

from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from buckets.clocked import ClockedStore
from buckets.limits import limits
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, Extend, Grant, Reserve, Return, Settle
from ratelimit_service.decision.limit import MAX_TOKENS, Concurrency, Limit

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
        self.reservations: list[tuple[bytes, tuple[Bucket, ...], tuple[int, ...]]] = []
        self.grants: list[tuple[Charge, int]] = []

    @initialize(
        now_us=st.integers(_YEAR_2000, _YEAR_2100), drawn=st.lists(limits(slots=True), min_size=_PLANS, max_size=_PLANS)
    )
    def begin(self, now_us: int, drawn: list[Limit]) -> None:
        """Begin some time in this century, with three buckets and the limits of six plans."""
        self.now_us = now_us
        self.limits = drawn

    @rule(step=_STEPS_US)
    def clock_moves(self, step: int) -> None:
        """Time passes, or the clock is set back."""
        self.now_us += step

    @rule(plan=st.integers(0, _PLANS - 1), limit=limits(slots=True))
    def plan_changes(self, plan: int, limit: Limit) -> None:
        """A plan gets another limit, perhaps of another kind."""
        self.limits[plan] = limit

    @rule(
        parts=st.lists(st.tuples(st.integers(0, _NAMES - 1), st.integers(0, _PLANS - 1)), min_size=1, max_size=3),
        estimate=st.one_of(st.integers(0, 20), st.integers(0, MAX_TOKENS)),
        hold_us=st.sampled_from([1_000_000, 1_500_000, 30_000_000, 3_600_000_000]),
        request=st.sampled_from(["", "", "", "first", "third", "third"]),
    )
    def call_is_reserved(self, parts: list[tuple[int, int]], estimate: int, hold_us: int, request: str) -> None:
        """A charge of one to three buckets is made as a reservation, or repeats one with other buckets."""
        buckets = self._buckets(parts)
        if request:
            estimate, hold_us = 7, 30_000_000  # what is the same call has the same
        reserved = tuple(1 if _has_slots(bucket) else bucket.limit.tokens_of(estimate) for bucket in buckets)
        name = f"{self.run}.{request or len(self.reservations)}".encode()
        request = request and f"{self.run}.{request}"
        self._charge(Charge(buckets, reserved, request, reservation=Reserve(name, hold_us)))
        self.reservations.append((name, buckets, reserved))

    @precondition(lambda self: self.reservations)
    @rule(which=st.integers(0, 1_000), share=st.sampled_from([0, 0, 1, 2, 2, 3, 6]), again=st.booleans())
    def reservation_is_settled(self, which: int, share: int, *, again: bool) -> None:
        """At nothing, at half of its estimate, at that, or above, perhaps twice."""
        name, buckets, reserved = self.reservations[which % len(self.reservations)]
        costs = tuple(
            -1 if _has_slots(bucket) else min(tokens * share // 2, MAX_TOKENS) - tokens
            for bucket, tokens in zip(buckets, reserved, strict=True)
        )
        for _ in range(1 + again):
            self._charge(Charge(buckets, costs, reservation=Settle(name, reserved)))

    @precondition(lambda self: self.reservations)
    @rule(which=st.integers(0, 1_000), hold_us=st.sampled_from([1_000_000, 40_000_000, 3_600_000_000]))
    def hold_is_extended(self, which: int, hold_us: int) -> None:
        """For a moment, or for long."""
        name, buckets, reserved = self.reservations[which % len(self.reservations)]
        self._charge(Charge(buckets, (0,) * len(buckets), reservation=Extend(name, reserved, hold_us)))

    @rule(
        plans=st.lists(st.integers(0, _PLANS - 1), min_size=1, max_size=_NAMES),
        cost=st.one_of(st.integers(1, 20), st.integers(1, MAX_TOKENS)),
        wants=st.one_of(st.integers(1, 10), st.integers(1, 1_000_000)),
        ttl_us=st.sampled_from([10_000, 400_000, 1_000_000]),
        share=st.integers(1, 5),
    )
    def units_are_granted(self, plans: list[int], cost: int, wants: int, ttl_us: int, share: int) -> None:
        """Of one to three buckets, by limits that count tokens."""
        parts = [(which, plan) for which, plan in enumerate(plans)]
        buckets = tuple(bucket for bucket in self._buckets(parts) if not _has_slots(bucket))
        costs = tuple(bucket.limit.tokens_of(cost) for bucket in buckets)
        name = f"{self.run}.g{len(self.grants)}".encode()
        grant = Charge(buckets, costs, reservation=Grant(name, ttl_us, wants, share, cost))
        self._charge(grant)
        self.grants.append((grant, wants))

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 1_000), other=st.booleans())
    def grant_is_repeated(self, which: int, *, other: bool) -> None:
        """By the same call, or by another with its name."""
        grant, _ = self.grants[which % len(self.grants)]
        own = grant.reservation
        assert isinstance(own, Grant)
        self._charge(grant._replace(reservation=own._replace(call=own.call + other)))

    @precondition(lambda self: self.grants)
    @rule(
        which=st.integers(0, 1_000),
        unused=st.one_of(st.integers(0, 10), st.integers(0, 1_000_000)),
        plans=st.lists(st.integers(0, _PLANS - 1), min_size=_NAMES, max_size=_NAMES),
        known=st.booleans(),
        again=st.booleans(),
    )
    def grant_is_returned(self, which: int, unused: int, plans: list[int], *, known: bool, again: bool) -> None:
        """To the buckets that it was made with, or by other plans; perhaps twice, or before it is made."""
        grant, _ = self.grants[which % len(self.grants)]
        own = grant.reservation
        assert isinstance(own, Grant)
        others = self._buckets([(which, plan) for which, plan in enumerate(plans)])
        buckets = tuple(bucket for bucket in others if not _has_slots(bucket))
        if known:
            buckets = grant.buckets
        name = own.name if known or again else f"{self.run}.g{len(self.grants)}".encode()
        for _ in range(1 + again):
            self._charge(Charge(buckets, (0,) * len(buckets), reservation=Return(name, unused)))

    def _buckets(self, parts: list[tuple[int, int]]) -> tuple[Bucket, ...]:
        return tuple(Bucket(f"{self.run}.{which}", 0, self.limits[plan]) for which, plan in parts)

    def _charge(self, *charges: Charge) -> None:
        assert self.store.charge(charges, self.now_us) == self.reference.charge(charges, self.now_us)

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
                self._buckets([(which, plan) for which, plan, _ in parts]),
                tuple(cost for _, _, cost in parts),
                request and f"{self.run}.{request}",
                afterwards=afterwards,
            )
            for parts, request, afterwards in batch
        ]
        self._charge(*charges)


def _has_slots(bucket: Bucket) -> bool:
    return isinstance(bucket.limit.algorithm, Concurrency)


@pytest.mark.timeout(170)
@pytest.mark.parametrize(("room", "examples"), [(Room.PLENTY, 100), (Room.RESERVED, 15)])
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
