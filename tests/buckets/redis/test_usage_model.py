"""The script and a model in Python count the same for any history."""

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from buckets.clocked import ClockedStore, clock_part
from buckets.redis.usage import MINUTE_US, UsageReader, node_with
from buckets.redis.usage_model import UsageModel, check_names, summary
from fixtures.redis_cluster import LoopbackCluster
from ratelimit_service.buckets.redis.script import Script, charge_scripts, part
from ratelimit_service.decision.charge import Bucket, Charge, Counted
from ratelimit_service.decision.limit import Limit, Mode, Quota, Window
from ratelimit_service.decision.usage import Series

RESOURCES = 3
_LIMIT = "MAX_RESOURCES, DIGEST = 100,"
_START_US = 1_800_000_000_000_000
_PARTITION = 7
_LIMITS = [
    Limit("tight", Quota(3, Window.MINUTE)),
    Limit("loose", Quota(40, Window.HOUR)),
    Limit("shadow", Quota(2, Window.MINUTE), mode=Mode.SHADOW),
    Limit("wide", Quota(100, Window.DAY), mode=Mode.SHADOW),
    Limit("owing", Quota(5, Window.HOUR), overdraft=10),
]
_STEPS_US = st.one_of(
    st.integers(-1_000_000, 20_000_000),
    st.integers(-12 * MINUTE_US, 3 * MINUTE_US),
    st.integers(-3 * 1440 * MINUTE_US, 2 * 1440 * MINUTE_US),
)


class FewResources(ClockedStore):
    """A store whose script gives names to a few resources only, so that random calls reach the limit."""

    def scripts(self) -> tuple[Script, ...]:
        """The script that it charges with."""
        usage = part("usage")
        assert _LIMIT in usage
        usage = usage.replace(_LIMIT, f"MAX_RESOURCES, DIGEST = {RESOURCES},")
        return charge_scripts(clock=clock_part(self._key), usage=usage)[:1]


@st.composite
def series_of(draw: st.DrawFn, limits: int) -> Series:
    """A series with so many limits: of few keys and rules, so that they meet again."""
    names = [f"limit-{number}" for number in range(limits)]
    if draw(st.booleans()):
        key_id, resource = (
            draw(st.sampled_from(["one", "two"])),
            draw(st.sampled_from(["a", "b", "c", "d", "e", "other"])),
        )
        return Series.of_key(key_id, resource, "acme", "free", names)
    return Series.of_rule("edge", draw(st.sampled_from(["path", "path=/a*/user"])), names)


@st.composite
def charges(draw: st.DrawFn) -> tuple[list[int], tuple[int, ...], str, tuple[Counted, ...], bool]:
    """The indexes of a charge's buckets, and the rest: simple ones, some made afterwards, as often as all others."""
    which = draw(st.lists(st.integers(0, len(_LIMITS) - 1), min_size=1, max_size=3))
    request = draw(st.sampled_from(["", "", "", "first", "second"]))
    if draw(st.booleans()):
        cost = draw(st.integers(0, 4))
        counted = (Counted(draw(series_of(len(which))), cost),) if cost else ()
        afterwards = bool(cost) and draw(st.booleans())
        return which, (cost,) * len(which), request and f"{request}.{afterwards}", counted, afterwards
    parts: dict[bytes, Counted] = {}
    for _ in range(draw(st.integers(1, 3))):
        limits = draw(st.integers(0, 2))
        series = draw(series_of(limits))
        own = draw(st.lists(st.integers(0, len(which) - 1), min_size=limits, max_size=limits)) * draw(st.integers(0, 2))
        calls = draw(st.integers(0, 1))
        cost = draw(st.integers(-3, 5) if calls else st.integers(-3, -1))
        parts.setdefault(series.field, Counted(series, cost, calls, tuple(own)))
    costs = draw(st.lists(st.integers(-2, 3), min_size=len(which), max_size=len(which)))
    return which, tuple(costs), request, tuple(parts.values()), False


class Agreement(RuleBasedStateMachine):
    """Counts the same charges in the script and in the model, and compares all segments."""

    store: ClockedStore
    client: redis.Redis
    tag: str

    def __init__(self) -> None:
        super().__init__()
        for key in self.client.scan_iter("*}:[bru]:*"):
            self.client.delete(key)
        self.model = UsageModel(RESOURCES)
        self.now_us = _START_US

    @rule(step=_STEPS_US)
    def clock_moves(self, step: int) -> None:
        """Time passes, or the clock is set back."""
        self.now_us += step

    @rule(batch=st.lists(charges(), max_size=5))
    def batch_is_charged(self, batch: list[tuple[list[int], tuple[int, ...], str, tuple[Counted, ...], bool]]) -> None:
        """Several charges in one script."""
        buckets = [Bucket(f"usage.{number}", _PARTITION, limit) for number, limit in enumerate(_LIMITS)]
        made = [
            Charge(tuple(buckets[number] for number in which), costs, request, counted, afterwards)
            for which, costs, request, counted, afterwards in batch
        ]
        self.model.charged(made, self.store.charge(made, self.now_us), self.now_us)
        usage = UsageReader(self.client, self.tag)
        assert usage.open() == self.model.open
        assert [summary(segment) for segment in usage.frozen()] == self.model.frozen
        assert usage.pending_bytes() == sum(segment.meta.size for segment in usage.frozen())
        assert usage.note("lost") == usage.note("squeezed") == 0
        check_names(usage.frozen(), RESOURCES)


def _run(examples: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Agreement,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.timeout(170)
def test_script_and_model_count_alike(emptied_valkey_url: str) -> None:
    """Several limits, shadows, denials, repeats, refunds, peeks, resources and clock steps: each call counts once."""
    with FewResources(emptied_valkey_url, "clock:usage-model") as store:
        Agreement.store, Agreement.client, Agreement.tag = store, store.client, "{u}"
        _run(100)


@pytest.mark.timeout(170)
def test_script_and_model_count_alike_on_a_cluster(redis_cluster: LoopbackCluster) -> None:
    """On a cluster a partition's calls are counted beside its buckets, in its slot."""
    tag = f"{{p{_PARTITION}}}"
    client = node_with(redis_cluster, tag)
    with FewResources(redis_cluster.url, f"{tag}:clock", client=client) as store:
        Agreement.store, Agreement.client, Agreement.tag = store, client, tag
        _run(15)
