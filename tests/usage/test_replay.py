"""What a replay of counts claims, against the calls that really happened: made one by one in the reference buckets."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Charge
from ratelimit_service.decision.limit import MICRO, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.record import KeyState, OnStoreFailure, Override, PolicyRecord
from ratelimit_service.usage.replay import Counted, Frame, Replay, Series

MINUTE = 60 * MICRO
FIRST = 29_925_117
"""The number of a minute: 2026-11-24 23:57 UTC, so that the range passes midnight."""

MINUTES = 8
RESOURCES = ("orders.read", "orders.write", "reports")


class Call(NamedTuple):
    """A call, as it really happened."""

    at_us: int
    key: int
    resource: str


@dataclass
class World:
    """Two keys of one subject, with overrides, and one key of another; the calls that they made."""

    limits: list[Limit]
    subject_overrides: list[Override]
    key_overrides: list[Override]
    calls: list[Call]
    cost: int
    bin_us: int = MINUTE

    def record(self, key: int) -> PolicyRecord:
        """The policy of a key."""
        return PolicyRecord(
            key_id=f"key{key}",
            subject="shared" if key < 2 else "alone",
            state=KeyState.ACTIVE,
            expires_us=None,
            secrets=(),
            plan="new",
            plan_version=1,
            on_store_failure=OnStoreFailure.LOCAL,
            limits=tuple(self.limits),
            subject_overrides=tuple(self.subject_overrides) if key < 2 else (),
            key_overrides=tuple(self.key_overrides) if key == 0 else (),
        )

    def replay(self, start: int, warm_up: int) -> Replay:
        """Replay the counts of the calls."""
        per_minute = 60 * MICRO // self.bin_us
        frame = Frame(self.bin_us, warm_up, start, FIRST // (1 if per_minute else 60) + MINUTES, 1)
        replay = Replay(self.limits, frame, top=10)
        counts = Counter((call.at_us // self.bin_us, call.key, call.resource) for call in self.calls)
        pairs = sorted({(key, resource) for _, key, resource in counts})
        numbers = {pair: number for number, pair in enumerate(pairs, start=1)}
        series = [
            Series(number, f"key{key}", resource, "shared" if key < 2 else "alone", 10, 10 * self.cost)
            for (key, resource), number in numbers.items()
        ]
        replay.begin(series, {"shared": self.subject_overrides}, {"key0": self.key_overrides})
        replay.add(
            Counted(numbers[key, resource], number, calls // 2, calls - calls // 2, calls // 2 * self.cost)
            for (number, key, resource), calls in sorted(counts.items())
        )
        replay.finish()
        return replay


@dataclass
class Truth:
    """What really was denied."""

    by_key: Counter[str]
    by_subject: Counter[str]
    by_limit: Counter[str]
    of_limit: Counter[str]


def really(world: World, start_us: int = 0) -> Truth:
    """Make the calls one by one.

    `by_limit`: calls that a limit denied. `of_limit`: also what others denied of the calls that it applied to.
    """
    buckets = ReferenceBuckets()
    truth = Truth(Counter(), Counter(), Counter(), Counter())
    for call in sorted(world.calls):
        record = world.record(call.key)
        rules = Policy(record, call.at_us).select(call.resource).rules
        charge = Charge(tuple(rule.bucket for rule in rules), (world.cost,) * len(rules))
        (result,) = buckets.charge([charge], call.at_us)
        if call.at_us < start_us:
            continue
        for rule, limit_result in zip(rules, result.limit_results, strict=True):
            truth.by_limit[rule.limit.name] += limit_result.wait_us != 0
            truth.of_limit[rule.limit.name] += not result.charged or limit_result.wait_us != 0
        truth.by_key[record.key_id] += not result.charged
        truth.by_subject[record.subject] += not result.charged
    return truth


def token_buckets() -> st.SearchStrategy[TokenBucket]:
    """Buckets that matter at a few calls a minute, at round and at odd rates."""
    return st.builds(
        TokenBucket,
        st.integers(1, 12),
        st.integers(1, 20),
        st.sampled_from([MICRO, 7 * MICRO, 59_999_999, MINUTE, 61 * MICRO, 5 * MINUTE, 3_600 * MICRO]),
    )


def quotas() -> st.SearchStrategy[Quota]:
    """Quotas of every window."""
    return st.builds(Quota, st.integers(1, 25), st.sampled_from(Window))


def algorithms() -> st.SearchStrategy[TokenBucket | Quota]:
    """One or the other."""
    return st.one_of(token_buckets(), quotas())


@st.composite
def instants(draw: st.DrawFn) -> int:
    """A time in the range; often at the very start or end of a minute, where bursts of two minutes meet."""
    minute = draw(st.integers(0, MINUTES - 1))
    within = draw(st.one_of(st.sampled_from([0, MINUTE - 1]), st.integers(0, MINUTE - 1)))
    return (FIRST + minute) * MINUTE + within


@st.composite
def calls(draw: st.DrawFn) -> list[Call]:
    """Calls of three keys, many of them in bursts."""
    made = []
    for _ in range(draw(st.integers(1, 12))):
        call = Call(draw(instants()), draw(st.integers(0, 2)), draw(st.sampled_from(RESOURCES)))
        made += [call] * draw(st.integers(1, 12))
    return made


@st.composite
def plans(draw: st.DrawFn) -> list[Limit]:
    """One to three limits, some for a part of the resources, some in shadow mode."""
    return [
        Limit(
            f"limit{number}",
            draw(algorithms()),
            draw(st.sampled_from(["*", "*", "orders.*", "reports"])),
            draw(st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW])),
        )
        for number in range(draw(st.integers(1, 3)))
    ]


@st.composite
def overrides(draw: st.DrawFn) -> list[Override]:
    """No override, or one of the first limit that may expire within the range."""
    if draw(st.booleans()):
        return []
    expires = draw(st.one_of(st.none(), instants()))
    return [Override(Limit("limit0", draw(algorithms()), draw(st.sampled_from(["*", "orders.*"]))), expires)]


FULL = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@FULL
@given(plans(), overrides(), overrides(), calls(), st.integers(1, 3))
def test_what_happened_is_within_the_bounds(
    limits: list[Limit], of_subject: list[Override], of_key: list[Override], made: list[Call], cost: int
) -> None:
    """Whatever the timing: the denied calls of all, of each key and each limit are within what is claimed of them."""
    world = World(limits, of_subject, of_key, made, cost)
    replay = world.replay(FIRST, FIRST)
    truth = really(world)
    effect = replay.totals.effect
    assert effect.best <= sum(truth.by_key.values()) <= effect.worst
    assert effect.calls == len(made)
    for key in replay.largest():
        assert key.effect.best <= truth.by_key[key.key_id] <= key.effect.worst, key
    unlisted = set(truth.by_key) - {key.key_id for key in replay.largest()}
    assert sum(truth.by_key[key_id] for key_id in unlisted) == 0
    for limit in {limit.name for limit in limits}:
        found = [effect for (name, _), effect in replay.totals.limits.items() if name == limit]
        assert sum(effect.best for effect in found) <= truth.of_limit[limit]
        assert truth.by_limit[limit] <= sum(effect.worst for effect in found)
    points = replay.points()
    assert sum(point.effect.best for point in points) == effect.best
    assert sum(point.effect.worst for point in points) == effect.worst
