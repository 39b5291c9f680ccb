"""What a running server counts."""

import asyncio
from urllib.parse import urlsplit

from faults.proxy import FaultProxy
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.errors import Code
from ratelimit_service.management.tokens import Role
from transport.grpcio.conftest import FREE, MakeSettings
from transport.grpcio.running import ADMIN, CHECKS, RunningServer, open_server


def counted(running: RunningServer) -> dict[tuple[str, Code], int]:
    """The number of calls so far."""
    return {key: sum(taken.counts) for key, taken in running.planes.counts.calls.by_method.items()}


async def test_calls_are_counted_by_method_and_code(running: RunningServer, api_key: str) -> None:
    """Each call counts once, under the code that its caller got."""
    check, manage = f"{CHECKS}/CheckLimit", f"{ADMIN}/ManageKey"
    before = counted(running)
    await running.check(api_key=api_key)
    await running.check(api_key=api_key)
    await running.check(api_key=api_key, cost=9_007_199_255)
    await running.send(manage, b"")
    await running.send(manage, b"", running.tokens[Role.ADMIN])
    grown = {key: count - before.get(key, 0) for key, count in counted(running).items() if count != before.get(key, 0)}
    assert grown == {
        (check, Code.OK): 2,
        (check, Code.INVALID_ARGUMENT): 1,
        (manage, Code.UNAUTHENTICATED): 1,
        (manage, Code.INVALID_ARGUMENT): 1,
    }


async def test_decisions_and_round_trips_are_counted(running: RunningServer, api_key: str) -> None:
    """A batch is one round trip of so many charges, and its decisions are counted by reason and source."""
    planes = running.planes
    await running.check(api_key=api_key)  # so that the key's policy is in memory
    sizes, registry = planes.counts.round_trips.sizes, planes.metrics.registry
    labels = {"reason": Reason.WITHIN_LIMIT.name, "source": Source.STORE.name}

    def exported() -> tuple[float, float, float]:
        planes.metrics.flush()
        samples = (
            registry.get_sample_value("ratelimit_decisions_total", labels),
            registry.get_sample_value("ratelimit_store_round_trip_charges_sum"),
            registry.get_sample_value("ratelimit_store_round_trip_seconds_sum"),
        )
        return tuple(sample or 0.0 for sample in samples)  # type: ignore[return-value]

    before, counted = exported(), sum(sizes.counts)
    request = checks_pb2.BatchCheckLimitRequest(checks=[checks_pb2.CheckLimitRequest(api_key=api_key)] * 5)
    await running.send(f"{CHECKS}/BatchCheckLimit", request.SerializeToString())
    after = exported()
    assert sum(sizes.counts) == counted + 1
    assert [now - then for now, then in zip(after[:2], before[:2], strict=True)] == [5, 5]
    assert 0 < after[2] - before[2] < 1


async def test_a_round_trip_that_is_lost_is_counted(make_settings: MakeSettings, valkey_url: str) -> None:
    """When Redis closes the connection without an answer, the call is decided locally and the failure is counted."""
    with FaultProxy(urlsplit(valkey_url).port or 0) as proxy:
        settings = await asyncio.to_thread(make_settings, redis_url=proxy.url, store_timeout=5.0)
        async with open_server(settings) as running:
            await running.plan("create", plan=FREE)
            api_key = (await running.key("create", plan="free", subject="lost")).create.secret
            metrics, found = running.planes.metrics, []
            for lost in (False, True):
                if lost:
                    proxy.lose_next_reply()
                answer = await running.check(api_key=api_key)
                assert isinstance(answer, checks_pb2.CheckLimitResponse)
                metrics.flush()
                failures = metrics.registry.get_sample_value("ratelimit_store_failures_total")
                found.append((answer.source, failures))
    answers = checks_pb2.CheckLimitResponse
    assert found == [(answers.STORE, 0), (answers.DEGRADED, 1)]
