"""QueryUsage without a transport, on a real Postgres: requests and responses as grpcurl shows them."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, ParseDict

from fixtures.control_plane import ControlPlane
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect, microseconds
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest
from ratelimit_service.errors import InvalidArgument, PermissionDenied, Unavailable
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role
from ratelimit_service.postgres.database import Database
from ratelimit_service.usage.query import Counts

NOW = datetime(2026, 11, 25, 14, 26, 31, tzinfo=UTC)
VIEWER = Caller("vera", Role.VIEWER)
ACME = Series("key1", "orders.create", "acme", "free")
GLOBEX = Series("key2", "orders.list", "globex", "pro")
RULE = Series(domain="edge", rule="path=/v1")
ROWS = [
    Counted(NOW - timedelta(minutes=3), ACME, Counts(7, 3, 21, 1, 2), (("burst", 2, 1), ("daily", 1, 0))),
    Counted(NOW - timedelta(minutes=64), ACME, Counts(5, 0, 5)),
    Counted(NOW - timedelta(minutes=4), GLOBEX, Counts(100, 1, -4), (("KEY_REVOKED", 1, 0),)),
    Counted(NOW - timedelta(minutes=4), RULE, Counts(40, 4, 40), (("path=/v1", 4, 0),)),
]


@pytest.fixture(scope="module")
def usage_url(migrated_database_url: Callable[[], str]) -> str:
    """The URL of a database that holds ROWS."""
    url = migrated_database_url()
    with connect(url) as connection:
        add_partitions(connection, NOW - timedelta(days=1), 2)
        UsageWriter(connection).write(row._replace(minute=row.minute.replace(second=0)) for row in ROWS)
    return url


@pytest_asyncio.fixture
async def plane(usage_url: str) -> AsyncIterator[ControlPlane]:
    """The services on it, at NOW."""
    database = Database(usage_url)
    plane = ControlPlane(database)
    plane.clock.us = microseconds(NOW)
    yield plane
    await database.close()


async def ask(plane: ControlPlane, caller: Caller = VIEWER, **request: object) -> dict[str, Any]:
    """Ask, in JSON."""
    response = await plane.service.query_usage(ParseDict(request, QueryUsageRequest()), caller)
    return MessageToDict(response, preserving_proto_field_name=True)


async def test_an_empty_request_is_all_of_the_last_hours(plane: ControlPlane) -> None:
    """Without any field: one row of all calls, the range that was counted, by hours; zeros are left out of JSON."""
    assert await ask(plane) == {
        "rows": [
            {
                "start_time": "2026-11-25T08:00:00Z",
                "allowed": "152",
                "denied": "8",
                "cost": "62",
                "shadow_denied": "1",
                "degraded": "2",
            }
        ],
        "total": {
            "start_time": "2026-11-25T08:00:00Z",
            "allowed": "152",
            "denied": "8",
            "cost": "62",
            "shadow_denied": "1",
            "degraded": "2",
        },
        "group_count": "1",
        "start_time": "2026-11-25T08:00:00Z",
        "end_time": "2026-11-25T15:00:00Z",
        "level": "HOUR",
    }


async def test_rows_have_the_values_of_their_group(plane: ControlPlane) -> None:
    """A row has the fields that were grouped by, in a top the highest first, then one for all others."""
    found = await ask(
        plane,
        start_time="2026-11-25T14:00:00Z",
        step="300s",
        group_by=["KEY", "SUBJECT", "PLAN", "RESOURCE"],
        top=1,
        order_by="DENIED",
        include_others=True,
    )
    assert found["rows"] == [
        {
            "start_time": "2026-11-25T14:20:00Z",
            "key_id": "key1",
            "subject": "acme",
            "plan": "free",
            "resource": "orders.create",
            "allowed": "7",
            "denied": "3",
            "cost": "21",
            "shadow_denied": "1",
            "degraded": "2",
        },
        {"start_time": "2026-11-25T14:20:00Z", "others": True, "allowed": "100", "denied": "1", "cost": "-4"},
    ]
    assert (found["group_count"], found["level"], found["end_time"]) == ("2", "MINUTE", "2026-11-25T14:30:00Z")


async def test_denials_by_limit_and_of_rules(plane: ControlPlane) -> None:
    """By limit denials alone are counted, reasons among them; domains and rules are dimensions of their own."""
    by_limit = await ask(plane, filter={"limits": ["burst", "KEY_REVOKED"]}, group_by=["LIMIT", "KEY"])
    rows = [(row["limit"], row["key_id"], row["denied"], row.get("allowed")) for row in by_limit["rows"]]
    assert rows == [("KEY_REVOKED", "key2", "1", None), ("burst", "key1", "2", None)]
    by_rule = await ask(plane, filter={"domains": ["edge"]}, group_by=["DOMAIN", "RULE"])
    rows = [(row["domain"], row["rule"], row["denied"], row["allowed"]) for row in by_rule["rows"]]
    assert rows == [("edge", "path=/v1", "4", "40")]


async def test_pages_follow_each_other(plane: ControlPlane) -> None:
    """A page has at most so many groups, and the token of the next one."""
    first = await ask(plane, group_by=["SUBJECT"], page_size=1)
    second = await ask(plane, group_by=["SUBJECT"], page_size=1, page_token=first["next_page_token"])
    assert [row["subject"] for row in (*first["rows"], *second["rows"])] == ["acme", "globex"]
    assert "next_page_token" not in second
    assert first["total"] == second["total"]


async def test_an_outcome_leaves_the_groups_that_have_it(plane: ControlPlane) -> None:
    """With an outcome only groups with such calls are returned, with all their counts."""
    found = await ask(plane, filter={"outcome": "DEGRADED"}, group_by=["KEY"])
    assert [(row["key_id"], row["allowed"]) for row in found["rows"]] == [("key1", "12")]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"step": "61s"}, "step"),
        ({"group_by": ["KEY", "DIMENSION_UNSPECIFIED"]}, "group_by[1]"),
        ({"group_by": [9]}, "group_by[0]"),
        ({"order_by": 77}, "order_by"),
        ({"filter": {"outcome": 77}}, "filter.outcome"),
        ({"filter": {"key_ids": ["x"] * 101}}, "filter.key_ids"),
        ({"filter": {"domains": ["x"], "plans": ["y"]}}, "group_by"),
        ({"start_time": "2026-11-25T14:00:00Z", "end_time": "2026-11-25T13:00:00Z"}, "start_time"),
        ({"top": -1, "group_by": ["KEY"]}, "top"),
        ({"page_size": 1001, "group_by": ["KEY"]}, "page_size"),
        ({"page_token": "AAAA", "group_by": ["KEY"]}, "page_token"),
    ],
)
async def test_an_invalid_field_is_named(plane: ControlPlane, request_: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT with the path of the field."""
    with pytest.raises(InvalidArgument) as caught:
        await ask(plane, **request_)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("caller", [ANONYMOUS, Caller("edge", Role.GATEWAY)])
async def test_a_gateway_may_not_ask(plane: ControlPlane, caller: Caller) -> None:
    """Usage is for viewers and admins."""
    with pytest.raises(PermissionDenied):
        await ask(plane, caller)


async def test_a_database_that_is_away_is_unavailable() -> None:
    """Without Postgres the answer is UNAVAILABLE with a reason, not an internal error."""
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable) as caught:
        await ask(ControlPlane(database))
    assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
    await database.close()
