"""Charges as large as they may be: a script that takes Redis milliseconds, in which nobody else is served."""

import time
from collections import Counter
from typing import Final

import grpc
import pytest

from attacks.attacked import Target, attacked
from attacks.sizes import FULL
from attacks.test_content import LIMIT, outcome_of
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.decision.charge import MAX_BUCKETS

LIMITS: Final = 16
DOMAIN: Final = "large"


def charge(address: str, until: float, descriptors: int) -> Counter[str]:
    """Send requests with so many descriptors of a rule with sixteen limits, each for the same values."""
    found: Counter[str] = Counter()
    entries = [{"entries": [{"key": "ip", "value": f"{number}"}]} for number in range(descriptors)]
    data = RateLimitRequest(domain=DOMAIN, descriptors=entries).SerializeToString()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(LIMIT)
        while time.monotonic() < until:
            try:
                found[outcome_of(LIMIT, method(data, timeout=5))] += 1
            except grpc.RpcError as error:
                found[f"{error.code().name}: {error.details()[:60]}"] += 1
    return found


@pytest.mark.parametrize("buckets", [MAX_BUCKETS, 4 * MAX_BUCKETS])
def test_one_caller_takes_redis_for_himself(target: Target, buckets: int) -> None:
    """No breaker opens, so nobody else becomes DEGRADED; beyond the bound of buckets a request is denied."""
    limits = [{"name": f"{number}", "quota": {"amount": 10**9, "window": "YEAR"}} for number in range(LIMITS)]
    rules = {"domain": DOMAIN, "descriptors": [{"key": "ip", "limits": limits}]}
    put = admin_pb2.ManageRulesRequest(replace={"rules": rules})
    target.server.manage().ManageRules(put, metadata=target.server.as_admin)
    with attacked(target, check=FULL) as report:
        found = report.attack(charge, buckets // LIMITS)
    assert report.during.degraded <= report.during.calls // 100, report.row()
    assert all("in the queue for Redis" in error for error in report.during.errors), report.row()
    assert not FULL or "circuit breaker open" not in str(found)
    assert (found["denied"] > 0) == (buckets > MAX_BUCKETS), found
