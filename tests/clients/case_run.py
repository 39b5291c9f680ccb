"""Runs one case of the contract against one client."""

from datetime import timedelta
from typing import Any

from google.rpc import error_details_pb2, status_pb2
from ratelimit_client import (
    CallRefused,
    Decision,
    Failures,
    HeaderStyle,
    Refusal,
    ServiceFault,
    limit_headers,
)

from clients.contract import SLOW_MACHINE_MS, Case, Step
from clients.scripted_server import ScriptedServer

_MS = timedelta(milliseconds=1)
_NS_PER_MS = 1_000_000
_ROUNDING_MS = 5

ChargeResult = Decision | CallRefused | str | None
"""What a call came to: a text says how its caller gave up, None that it was made over HTTP."""


class CaseRun:
    """What a case needs beside its client: the clock, the server and what was seen so far."""

    def __init__(self, case: Case, server: ScriptedServer) -> None:
        self._options = case.get("options", {})
        self._server = server
        self._now = 1_000_000_000
        self._made_up_ids: set[str] = set()
        self.faults: list[ServiceFault] = []

    @property
    def options(self) -> dict[str, Any]:
        """The client's options, as the Python client takes them."""
        given = {"deadline_ms": SLOW_MACHINE_MS, **self._options}
        options: dict[str, Any] = {"clock": lambda: self._now, "on_failure": self.faults.append}
        if given["deadline_ms"] != "default":
            options["deadline"] = given["deadline_ms"] / 1000
        if "denial_cache_longest_ms" in given:
            options["denial_cache_longest"] = given["denial_cache_longest_ms"] / 1000
        for name in ("fail_open", "connections", "denial_cache_size"):
            if name in given:
                options[name] = given[name]
        return options

    def advances(self, step: Step) -> bool:
        """Whether STEP only moves the clock, which is then done."""
        self._now += step.get("advance_ms", 0) * _NS_PER_MS
        return "advance_ms" in step

    def script(self, step: Step) -> None:
        """Tell the server what to do in STEP."""
        self._server.script(step["server"])

    def saw(self, step: Step, outcome: ChargeResult, failures: Failures, took: float) -> None:
        """Assert that what the caller and the server saw is what STEP says."""
        sees = step["sees"]
        self._check_attempts(step)
        if "failures" in sees:
            assert {"open": failures.open, "closed": failures.closed} == sees["failures"]
        assert len(self.faults) == failures.open + failures.closed
        if "took_ms" in sees:
            assert sees["took_ms"]["at_least"] <= took * 1000 <= sees["took_ms"]["at_most"]
        if "raises" in sees:
            assert isinstance(outcome, CallRefused), outcome
            told = {"status": outcome.code.name, "message": outcome.message}
            told |= {"reason": outcome.reason, "field": outcome.field}
            assert {name: told[name] for name in sees["raises"]} == sees["raises"]
        elif "ended" in sees:
            assert outcome == sees["ended"]
        elif "response" not in sees:
            assert isinstance(outcome, Decision), outcome
            check_decision(sees, outcome)

    def _check_attempts(self, step: Step) -> None:
        sees, call = step["sees"], step.get("call", {})
        sure = sum("may_miss" not in item for item in step["server"])
        attempts = self._server.came(sure)
        assert self._server.beyond_the_script == 0
        assert sure <= len(attempts) <= len(step["server"])
        for attempt, expected in zip(attempts, sees.get("attempts", ()), strict="attempts" in sees):
            seen = {name: getattr(attempt, name) for name in ("api_key", "key_id", "resource", "request_id")}
            seen["cost"] = attempt.cost if attempt.HasField("cost") else 1
            assert {name: seen[name] for name in expected} == expected
        ids = {attempt.request_id for attempt in attempts}
        assert len(ids) == min(1, len(attempts))
        if "request_id" in call:
            assert ids <= {call["request_id"]}
        else:
            assert "" not in ids
            assert not ids & self._made_up_ids
            self._made_up_ids |= ids
        if "server_deadline_ms" in sees and attempts:
            assert self._server.deadlines[0] * 1000 <= sees["server_deadline_ms"] + _ROUNDING_MS


def check_decision(sees: dict[str, Any], decision: Decision) -> None:
    """Assert that DECISION is what a case SEES."""
    told: dict[str, Any] = {
        "allowed": decision.allowed,
        "reason": int(decision.reason) if isinstance(sees.get("reason"), int) else decision.reason.name,
        "source": decision.source.name,
        "origin": decision.origin.value,
        "retry_after_ms": _ms(decision.retry_after),
        "limits": [
            {
                "name": limit.name,
                "remaining": limit.remaining,
                "reset_after_ms": _ms(limit.reset_after),
                "retry_after_ms": _ms(limit.retry_after),
                "shadow": limit.shadow,
            }
            for limit in decision.limits
        ],
        "headers": {style.value: _headers(decision, style) for style in HeaderStyle},
        "http": None if decision.allowed else _http(decision),
        "grpc": None if decision.allowed else _grpc(decision, sees.get("grpc") or {}),
    }
    told |= {name: getattr(decision, name) for name in ("key_id", "subject", "plan", "limit", "remaining")}
    expected = {name: value for name, value in sees.items() if name in told}
    assert {name: told[name] for name in expected} == expected


def _headers(decision: Decision, style: HeaderStyle) -> dict[str, str]:
    return limit_headers(decision, style) if decision.allowed else Refusal.of_decision(decision).headers(style)


def _http(decision: Decision) -> dict[str, Any]:
    refusal = Refusal.of_decision(decision)
    return {"status": int(refusal.status), "problem": refusal.problem()}


def _grpc(decision: Decision, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a caller with the stock messages of google.rpc reads from our status."""
    refusal = Refusal.of_decision(decision)
    status = status_pb2.Status.FromString(refusal.status_details())
    assert (status.code, status.message) == (refusal.code.value[0], refusal.detail)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "ratelimit.v1"
    assert dict(info.metadata) == ({"limit": decision.limit} if decision.limit else {})
    retry = error_details_pb2.RetryInfo()
    delay = None
    if len(status.details) > 1:
        assert status.details[1].Unpack(retry)
        delay = retry.retry_delay.ToTimedelta() / _MS
    told = {"code": refusal.code.name, "message": refusal.detail, "reason": info.reason, "retry_delay_ms": delay}
    return {name: told[name] for name in wanted}


def _ms(wait: timedelta | None) -> float | None:
    return None if wait is None else wait / _MS
