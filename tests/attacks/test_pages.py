"""Viewers who read as much as they can: pages of a thousand, each item as large as it may be."""

import time
from collections import Counter

import grpc
import pytest

from attacks.attacked import Target, attacked
from attacks.sizes import TOLERATED
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as pb
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as pb_grpc
from ratelimit_service.management.tokens import Role

KEYS = 1_000
LIMIT = """jsonb_build_object('name', 'limit-' || m || repeat('x', 50), 'resource', repeat('r', 250), 'mode', 'enforce',
    'token_bucket', '{"capacity": 1000, "refill_tokens": 100, "refill_period_us": 1000000}'::jsonb)"""
LABELS = "(SELECT jsonb_object_agg('label' || m || repeat('y', 50), repeat('v', 60)) FROM generate_series(1, 16) AS m)"
NODES = f"""(SELECT jsonb_agg(jsonb_build_object('key', 'key-' || n, 'value', repeat('v', 100), 'limits',
    (SELECT jsonb_agg({LIMIT} - 'resource' - 'mode') FROM generate_series(1, 4) AS m)))
    FROM generate_series(1, 1000) AS n)"""
FILL = (
    f"""INSERT INTO keys
            (key_id, subject, plan_id, state, description, revision, create_time, update_time, labels)
        SELECT 'page' || lpad(n::text, 12, '0'), 'tenant', (SELECT min(plan_id) FROM plans), 'active', '', 1, now(),
            now(), {LABELS} FROM generate_series(1, {KEYS}) AS n""",
    f"""INSERT INTO overrides (level, target, limit_name, limit_document)
        SELECT 'key', key_id, 'limit-' || m || repeat('x', 50), {LIMIT}
        FROM keys, generate_series(1, 16) AS m WHERE key_id LIKE 'page%'""",
    """INSERT INTO audit_events (time, actor, action, target, detail, previous)
        SELECT now(), 'ada', 'key.update', 'keys/' || key_id, jsonb_build_object('labels', labels),
            jsonb_build_object('labels', labels) FROM keys WHERE key_id LIKE 'page%'""",
    f"""WITH made AS (
            INSERT INTO rule_domains (domain, version, create_time) VALUES ('paged', 1, now()) RETURNING domain_id)
        INSERT INTO rule_versions SELECT domain_id, 1, {NODES}, 'fail', '', now() FROM made""",
)
"""What fills the database, as an admin could by calls."""

MAX_PAGE = 2 * 1024 * 1024
MAX_RESPONSE = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)
"""Larger than the library's 4 MiB, as pages were before."""


@pytest.fixture
def filled(target: Target) -> Target:
    """A server whose Postgres has keys with all the labels and overrides that a key may have, and such rules."""
    target.server.key("once")  # makes a plan
    for statement in FILL:
        target.watch.execute(statement)
    return target


def read_pages(address: str, until: float, token: str) -> Counter[str]:
    """List keys and changes a thousand at a time, and read a large domain, in turns."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(address, MAX_RESPONSE) as channel:
        stub = pb_grpc.KeyAdminServiceStub(channel)
        requests = (
            (stub.ManageKey, pb.ManageKeyRequest(list={"page_size": 1000, "subject": "tenant"})),
            (stub.ListAuditEvents, pb.ListAuditEventsRequest(page_size=1000, target_prefix="keys/page")),
            (stub.ManageRules, pb.ManageRulesRequest(get={"domain": "paged"})),
        )
        while time.monotonic() < until:
            for method, request in requests:
                try:
                    response = method(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
                    found["too large"] += response.ByteSize() > MAX_PAGE
                    found["OK"] += 1
                except grpc.RpcError as error:
                    found[error.code().name] += 1
    return found


def test_a_viewer_reads_large_pages(filled: Target) -> None:
    """Pages are bounded in bytes, and made between the calls of others, who wait for none.

    On the transport grpcio they are made by a worker that decides, which docs/security.md says: there nobody's call may
    fail, and the victim's latency is only reported.
    """
    with attacked(filled, "large pages of a viewer", check=filled.transport == "envoy") as report:
        found = report.attack(read_pages, filled.server.tokens[Role.VIEWER])
    assert report.during.errors.total() + report.during.degraded <= TOLERATED * report.during.calls, report.row()
    assert found["OK"] > 2
    assert found["too large"] == 0
