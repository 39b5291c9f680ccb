"""A change that cannot be read is skipped and named; those after it follow at once."""

import asyncio
import time
from collections.abc import Callable

import psycopg
import pytest
from structlog.testing import capture_logs

from console.browser import Browser
from faults.sizes import FACTOR
from fixtures.control_plane import ControlPlane, key_draft, plan_draft
from fixtures.served import Server, free_address
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.management.tokens import Role
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.unreadable_rows import UnreadableRows


@pytest.mark.parametrize("row", [("moon", "x"), ("key", None), (None, "x"), ("", "")])
async def test_a_change_of_an_unknown_kind_stops_no_other(
    loose_database: Database, loose_url: str, row: tuple[str | None, str | None]
) -> None:
    """Of three changes the second is written by hand and unknown: the others arrive, and it is named."""
    control_plane, unreadable = ControlPlane(loose_database), UnreadableRows()
    feed = PostgresChangeFeed(loose_database, unreadable)
    await control_plane.plans.create("ada", plan_draft())
    with psycopg.connect(loose_url) as connection:
        connection.execute("INSERT INTO changes (kind, name, time) VALUES (%s, %s, now())", row)
    key, _ = await control_plane.keys.create("ada", key_draft())

    with capture_logs() as logs:
        async with asyncio.timeout(1):
            found = await feed.wait(await feed.position() - 3)

    assert list(found.changes) == [Change(ChangeKind.PLAN, "free"), Change(ChangeKind.KEY, key.key_id)]
    assert found.position == await feed.position()
    assert unreadable.counts["changes"] == 1
    assert [(line["table"], line["row"]) for line in logs] == [("changes", f"number {found.position - 1}")]
    await feed.close()


def test_a_number_far_ahead_stops_no_change(own_server: Callable[..., Server]) -> None:
    """After somebody wrote one, a revocation is in force as ever; the row is named, on the console too."""
    server = own_server("grpcio", operations_listen=free_address())
    address = server.settings.operations_listen
    key_id, api_key = server.key("wide")
    stub = RateLimitServiceStub(server.channel)
    assert stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5).allowed
    with psycopg.connect(server.settings.database_url.get_secret_value()) as connection:
        connection.execute(
            "INSERT INTO changes (number, kind, name, time) OVERRIDING SYSTEM VALUE "
            "VALUES (4611686018427387904, 'plan', 'wide', now())"
        )
    time.sleep(2)  # it is read
    revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
    server.manage().ManageKey(revoke, metadata=server.as_admin, timeout=5)
    revoked = time.monotonic()
    while stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5).allowed:
        assert time.monotonic() - revoked < 2 * FACTOR
        time.sleep(0.05)
    browser = Browser(f"http://{address}/console").sign_in(server.tokens[Role.VIEWER])
    while "Stored rows cannot be read. What they were before stays in force." not in browser.get("/keys").text:
        assert time.monotonic() - revoked < 10 * FACTOR
        time.sleep(0.2)
    assert ask(address, "/readyz").status == 200
    assert "number 4611686018427387904" in server.output
    browser.client.close()
