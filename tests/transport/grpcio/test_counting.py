"""What a running server counts."""

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.errors import Code
from ratelimit_service.management.tokens import Role
from transport.grpcio.running import ADMIN, CHECKS, Door


async def test_calls_are_counted_by_method_and_code(door: Door, api_key: str) -> None:
    """Each call counts once, under the code that its caller got."""
    counts = door.planes.counts.calls.by_method
    check, manage = f"{CHECKS}/CheckLimit", f"{ADMIN}/ManageKey"
    before = dict(counts)
    await door.check(api_key=api_key)
    await door.check(api_key=api_key)
    await door.check(api_key=api_key, cost=1_000_001)
    await door.send(manage, b"")
    await door.send(manage, b"", door.tokens[Role.ADMIN])
    grown = {key: count - before.get(key, 0) for key, count in counts.items() if count != before.get(key, 0)}
    assert grown == {
        (check, Code.OK): 2,
        (check, Code.INVALID_ARGUMENT): 1,
        (manage, Code.UNAUTHENTICATED): 1,
        (manage, Code.INVALID_ARGUMENT): 1,
    }


async def test_decisions_and_round_trips_are_counted(door: Door, api_key: str) -> None:
    """A batch is one round trip of so many charges, and its decisions are counted by reason and source."""
    planes = door.planes
    await door.check(api_key=api_key)  # so that the key's policy is in memory
    sizes, registry = planes.counts.trips.sizes, planes.metrics.registry
    labels = {"reason": Reason.WITHIN_LIMIT.name, "source": Source.STORE.name}

    def told() -> tuple[float, float, float]:
        planes.metrics.flush()
        samples = (
            registry.get_sample_value("ratelimit_decisions_total", labels),
            registry.get_sample_value("ratelimit_store_trip_charges_sum"),
            registry.get_sample_value("ratelimit_store_trip_seconds_sum"),
        )
        return tuple(sample or 0.0 for sample in samples)  # type: ignore[return-value]

    before, counted = told(), sum(sizes.counts)
    request = checks_pb2.BatchCheckLimitRequest(checks=[checks_pb2.CheckLimitRequest(api_key=api_key)] * 5)
    await door.send(f"{CHECKS}/BatchCheckLimit", request.SerializeToString())
    after = told()
    assert sum(sizes.counts) == counted + 1
    assert [now - then for now, then in zip(after[:2], before[:2], strict=True)] == [5, 5]
    assert 0 < after[2] - before[2] < 1
