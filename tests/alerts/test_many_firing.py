"""Thousands of subjects over a threshold, on a real server; twenty thousand with `RATELIMIT_FAULTS=full`."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import psycopg
import pytest

from faults.sizes import FULL
from faults.stepped_clock import SteppedClock
from fixtures.dev_server import free_address
from fixtures.many_keys import insert_keys
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as stubs
from ratelimit_service.alerts.quota_alerts import MAX_FIRING

SUBJECTS = 20_000 if FULL else 4_000
READ = (3 if FULL else 1) * MAX_FIRING
"""Alerts whose quotas have to be read again: those of so many evaluations."""
USED = 85
MAX_SECONDS = 150
MINUTE = 60
PER_CALL = 100


@pytest.mark.timeout(300)
def test_many_alerts_that_are_firing(serve: Serve, tmp_path: Path) -> None:
    """The process that evaluates lives, other rules fire, and the use of quotas is read again part by part."""
    clock = SteppedClock(tmp_path / "offset")
    server = serve("grpcio", operations_listen=free_address(), variables=clock.variables())
    limits = [{"name": "daily", "quota": {"amount": 100, "window": "DAY"}}]
    plan = admin_pb2.ManagePlanRequest(create={"plan": {"name": "watched", "limits": limits}})
    server.manage().ManagePlan(plan, metadata=server.as_admin)
    keys = insert_keys(server.settings, SUBJECTS, "watched")
    use_up(server, keys)
    url = server.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        begin_alerts(connection, keys)
        evaluating = server.operations()
        degrade(connection)
        clock.set_offset(MINUTE)  # a quota is read once in each minute
        until, read = time.monotonic() + MAX_SECONDS, 0
        while read < READ:
            assert evaluating.is_running(), server.output
            assert time.monotonic() < until, server.output
            time.sleep(0.2)
            ((read,),) = connection.execute("SELECT count(*) FROM alerts WHERE detail ->> 'used' = %s", (str(USED),))
        firing = dict(connection.execute("SELECT rule, count(*) FROM alerts WHERE end_time IS NULL GROUP BY 1"))
    assert server.operations().pid == evaluating.pid
    assert firing["degraded"] == 1
    assert firing["quota"] >= SUBJECTS
    assert "not evaluated" not in server.output


def use_up(server: Server, keys: Iterable[str]) -> None:
    """Use most of each quota."""
    stub, rest = stubs.RateLimitServiceStub(server.channel), iter(keys)
    while some := list(islice(rest, PER_CALL)):
        checks = [{"api_key": key, "cost": USED} for key in some]
        response = stub.BatchCheckLimit(pb2.BatchCheckLimitRequest(checks=checks), timeout=30)
        assert all(result.decision.allowed for result in response.results), response.results[0]


def begin_alerts(connection: psycopg.Connection, keys: Iterable[str]) -> None:
    """Insert an alert of each subject, as an evaluation did a while ago, when 80 tokens were used."""
    columns = "rule, target, limit_name, level, summary, detail, start_time, update_time"
    with connection.cursor() as cursor, cursor.copy(f"COPY alerts ({columns}) FROM STDIN".encode()) as rows:
        for key in keys:
            key_id = key.split("_")[2]
            detail = {"used": 80, "amount": 100, "window": "day", "key_id": key_id}
            row = ("quota", f"subjects/subject of {key_id}", "daily", 80, "", json.dumps(detail), "now", "now")
            rows.write_row(row)


def degrade(connection: psycopg.Connection) -> None:
    """Count calls that were decided without the store a minute ago."""
    minute = (datetime.now(UTC) - timedelta(minutes=2)).replace(second=0, microsecond=0)
    connection.execute(
        "INSERT INTO usage_plan_minute (minute, plan, domain, allowed, denied, cost, shadow_denied, degraded)"
        " VALUES (%s, 'other', '', 10, 0, 10, 0, 10)",
        (minute,),
    )
