"""What operators see of reservations: how many are open, what ended unsettled, and what is owed."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from fixtures.served import Server, free_address
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    ExtendHoldRequest,
    SettleLimitRequest,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from server.test_metrics import total

LONG, SHORT = Duration(seconds=30), Duration(seconds=1)
PAGE: Final = Path(__file__).parents[2] / "docs" / "token-budgets.md"
_TERM: Final = re.compile(r"(-?)\s*sum\((?:(?:increase|delta)\()?(\w+)(\{event=\"\w+\"\})?(?:\[1d\]\))?\)")


def query(name: str, server: Server) -> float:
    """What a query of the page comes to on a server that began when the day began, where increases are totals."""
    (text,) = re.findall(rf"^\| {name} \| `([^`]+)`", PAGE.read_text(), re.MULTILINE)
    terms = _TERM.findall(text)
    assert _TERM.sub("", text).strip() == "", f"this test cannot read {text}"
    return sum(
        (-1 if sign else 1) * total(server, metric + label.replace("{", r"\{").replace("}", r"\}"))
        for sign, metric, label in terms
    )


def test_reservations_that_are_open_and_those_that_ended(own_server: Callable[..., Server]) -> None:
    """By the documented queries, over two workers of which each settles what the other has made."""
    server = own_server("grpcio", workers=2, operations_listen=free_address(), store_timeout=1.0, store_slow=1.0)
    limit = {"name": "tokens", "quota": {"amount": 100, "window": "YEAR"}, "overdraft": {"tokens": 20}}
    request = admin_pb2.ManagePlanRequest(create={"plan": {"name": "budget", "limits": [limit]}})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    _, secret = server.key("budget")
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.address, options=options) for _ in range(8)]
    stubs = [RateLimitServiceStub(channel) for channel in channels]

    def reserve(number: int, hold: Duration = LONG, request_id: str = "") -> str:
        made = stubs[number].CheckLimit(
            CheckLimitRequest(api_key=secret, cost=10, hold=hold, request_id=request_id), wait_for_ready=True
        )
        assert made.reservation_id, made
        return str(made.reservation_id)

    expired = reserve(0, SHORT)
    extended = reserve(1, SHORT)
    stubs[2].ExtendHold(ExtendHoldRequest(reservation_id=extended, hold=LONG))
    assert reserve(3, request_id="again") == reserve(4, request_id="again")
    first, second, _ = (reserve(number) for number in (5, 6, 7))
    stubs[0].SettleLimit(SettleLimitRequest(reservation_id=first, actual_cost=0))
    for number in (1, 2):
        stubs[number].SettleLimit(SettleLimitRequest(reservation_id=second, actual_cost=100))
    time.sleep(1.1)
    with pytest.raises(grpc.RpcError, match="no open reservation"):
        stubs[3].SettleLimit(SettleLimitRequest(reservation_id=expired, actual_cost=0))

    def found() -> dict[str, float]:
        events = ("made", "repeated", "settled", "extended", "gone", "abandoned")
        return {
            **{event: total(server, rf'ratelimit_reservations_total\{{event="{event}"\}}') for event in events},
            **{name: query(name, server) for name in ("open", "ended unsettled", "overdrawn", "clamped")},
        }

    expected = {"made": 6, "repeated": 2, "settled": 2, "extended": 1, "gone": 1, "abandoned": 0}
    expected |= {"open": 3, "ended unsettled": 1, "overdrawn": 1, "clamped": 20}
    deadline = time.monotonic() + 5
    while found() != expected:
        assert time.monotonic() < deadline, found()
        time.sleep(0.1)
    for channel in channels:
        channel.close()
