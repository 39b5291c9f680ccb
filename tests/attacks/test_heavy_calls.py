"""Calls that each cost as much as a hundred others: in number they are few, and within every bound."""

from attacks.attacked import Target, attacked
from attacks.heavy import heavy
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

DESCRIPTORS = 128
SLOWEST_MS = {"envoy": 60.0 if FULL else 1_000.0, "grpcio": 500.0 if FULL else 2_000.0}
"""The victim's p99: two heavy calls are before it when it arrives, and two when its message has been read. With grpcio
there are several of these moments, and the library refuses calls of a connection that has too many in flight."""

ERRORS = {"envoy": 0.0, "grpcio": 0.3}
"""Share of the victim's calls."""


def test_heavy_calls_take_turns(target: Target) -> None:
    """As many requests with 128 new values as may be in flight delay nobody for long, and have nobody's call refused.

    They are decided meanwhile: what waits for its turn is not refused as long as its caller waits.
    """
    limits = [{"quota": {"amount": 1_000_000, "window": "SECOND"}}]
    rules = {"domain": "heavy", "on_store_failure": "LOCAL", "descriptors": [{"key": "value", "limits": limits}]}
    put = admin_pb2.ManageRulesRequest(replace={"rules": rules})
    target.server.manage().ManageRules(put, metadata=target.server.as_admin)
    with attacked(target, "heavy calls", check=False, memory_mb=60.0) as report:
        report.attack(heavy, "heavy", DESCRIPTORS, seconds=max(ATTACK_SECONDS, 1.5))
    assert report.during.errors.total() <= ERRORS[target.transport] * report.during.calls, report.during.errors
    assert report.during.degraded == 0, report.row()
    assert report.during.p99_ms <= SLOWEST_MS[target.transport], report.row()
    assert report.attackers["answered"] > 10, report.row()
