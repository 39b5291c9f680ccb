"""Runs one case of the contract against one client."""

import dataclasses
import logging
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from google.rpc import error_details_pb2, status_pb2
from ratelimit_client import (
    Decision,
    Failures,
    Grants,
    HeaderStyle,
    LimitResult,
    RateLimitError,
    Refusal,
    Settlement,
    limit_headers,
)
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    GrantRequest,
    GrantReturn,
    SettleLimitRequest,
)

from clients.contract import SLOW_MACHINE_MS, Case, Step
from clients.scripted_server import ScriptedServer

_MS = timedelta(milliseconds=1)
_NS_PER_MS = 1_000_000
_ROUNDING_MS = 5


class Reserved(NamedTuple):
    """What a reservation resulted in."""

    decision: Decision
    reservation_id: str
    settlement: Settlement | None = None
    """What the body of its scope settled."""


Outcome = Decision | Reserved | Settlement | bool | RateLimitError | str | None
"""What a step resulted in: a bool is an extension, a text how the caller abandoned the call, None a call over HTTP."""

READY = "ready"
"""The outcome of `ready`."""


class LeftError(Exception):
    """What the body of a scope leaves it by."""


class RecordedMetrics:
    """What the client's metrics got."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.failures = {"open": 0, "closed": 0, "unsettled": 0}
        self.grants = dict.fromkeys(dataclasses.asdict(Grants()), 0)

    def granted(self, change: Grants) -> None:
        assert change != Grants()
        for name, by in dataclasses.asdict(change).items():
            self.grants[name] += by

    def decided(self, decision: Decision, duration: float) -> None:
        assert 0 <= duration < SLOW_MACHINE_MS
        self.decisions.append(decision)

    def failed(self, error: RateLimitError, outcome: Literal["open", "closed", "unsettled"]) -> None:
        assert isinstance(error, RateLimitError)
        self.failures[outcome] += 1


class CaseRunner:
    """The state of a case beside its client: the clock, the server, and the errors and request ids so far."""

    def __init__(self, case: Case, server: ScriptedServer, target: str) -> None:
        self._options = case.get("options", {})
        self._server = server
        self._target = target
        self._metrics = RecordedMetrics()
        self._decided = 0
        self._logged: list[str] = []
        self._logger = logging.Logger("test")  # noqa: LOG001  each case has its own
        self._logger.addHandler(_ListHandler(self._logged))
        self._now = 1_000_000_000
        self._generated_ids: set[str] = set()
        self._grant_ids: list[str] = []
        self.errors: list[RateLimitError] = []

    @property
    def options(self) -> dict[str, Any]:
        """The client's options, as the Python client takes them."""
        given = {"deadline_ms": SLOW_MACHINE_MS, **self._options}
        options: dict[str, Any] = {"clock": lambda: self._now, "logger": self._logger, "metrics": self._metrics}
        if "on_failure" not in given:
            options["on_failure"] = self.errors.append
        if "connect_timeout_ms" in given:
            options["connect_timeout"] = given["connect_timeout_ms"] / 1000
        if given["deadline_ms"] != "default":
            options["deadline"] = given["deadline_ms"] / 1000
        if "denial_cache_max_age_ms" in given:
            options["denial_cache_max_age"] = given["denial_cache_max_age_ms"] / 1000
        for name in ("fail_open", "connections", "denial_cache_size", "mode", "near_limit"):
            if name in given:
                options[name] = given[name]
        return options

    def advance(self, step: Step) -> bool:
        """Advance the clock by what STEP has. Returns whether that is all of it."""
        self._now += step.get("advance_ms", 0) * _NS_PER_MS
        return "advance_ms" in step

    def script(self, step: Step) -> None:
        """Script the server for STEP."""
        self._server.script(step.get("server", []))

    def verify_grants(self, step: Step, read: Callable[[], Grants]) -> None:
        """Assert that the numbers that READ returns become what STEP expects, within some time."""
        expected = step.get("expect", {}).get("grants", {})
        ends = time.monotonic() + 5
        while (actual := {name: getattr(read(), name) for name in expected}) != expected:
            assert time.monotonic() < ends, (actual, expected)
            time.sleep(0.005)

    def verify_end(self, grants: Grants) -> None:
        """Assert that the metrics of a client that is closed got all numbers of GRANTS."""
        assert self._metrics.grants == dataclasses.asdict(grants)

    def verify_sent(self, step: Step) -> None:
        """Assert that the client has sent what STEP expects by itself."""
        if "server" in step:
            if not step["server"]:
                time.sleep(0.05)
            self._verify_attempts(step)

    def verify(self, step: Step, outcome: Outcome, failures: Failures, took: float) -> None:
        """Assert that the caller and the server saw what STEP expects."""
        expect = step["expect"]
        self._verify_attempts(step)
        self._verify_failures(expect, failures)
        self._verify_metrics(step, outcome)
        if "duration_ms" in expect:
            assert expect["duration_ms"]["min"] <= took * 1000 <= expect["duration_ms"]["max"]
        if "error" in expect:
            assert isinstance(outcome, RateLimitError), outcome
            expected = {name: self._filled(text) for name, text in expect["error"].items()}
            _verify_error(expected, outcome)
            _verify_refusal(expect, Refusal.for_error(outcome), limit="")
        elif "ready" in expect:
            assert outcome == READY
        elif "abandoned" in expect:
            assert outcome == expect["abandoned"]
        elif "extended" in expect:
            assert outcome is expect["extended"]
        elif isinstance(outcome, Settlement):
            _verify_settlement(expect["settlement"], outcome)
        elif "response" not in expect:
            if isinstance(outcome, Reserved):
                assert outcome.reservation_id == expect.get("reservation_id", outcome.reservation_id)
                if "settlement" in expect:
                    assert outcome.settlement is not None
                    _verify_settlement(expect["settlement"], outcome.settlement)
                outcome = outcome.decision
            assert isinstance(outcome, Decision), outcome
            verify_decision(expect, outcome)
            assert (outcome.failure is not None) == (outcome.origin.value == "FALLBACK")

    def _filled(self, text: str) -> str:
        return text.replace("{target}", self._target)

    def _verify_failures(self, expect: dict[str, Any], failures: Failures) -> None:
        """Assert that failures were counted, measured, and reported or logged."""
        if "failures" in expect:
            expected = {"open": 0, "closed": 0, "unsettled": 0} | expect["failures"]
            assert dataclasses.asdict(failures) == expected
        assert self._metrics.failures == dataclasses.asdict(failures)
        if "on_failure" not in self._options:
            assert len(self.errors) == failures.open + failures.closed + failures.unsettled
        if "logged" in expect:
            assert self._logged == [self._filled(text) for text in expect["logged"]]
        self._logged.clear()

    def _verify_metrics(self, step: Step, outcome: Outcome) -> None:
        """Assert that the metrics got each decision once."""
        decision = outcome.decision if isinstance(outcome, Reserved) else outcome
        if self._options.get("mode") == "granted" and not step["server"]:
            assert len(self._metrics.decisions) == self._decided  # it has not waited
        elif isinstance(decision, Decision):
            assert self._metrics.decisions[self._decided :] == [decision]
            self._decided += 1
        elif "request" in step or "scope" in step:  # the decision is not the outcome
            self._decided = len(self._metrics.decisions)
        else:
            assert len(self._metrics.decisions) == self._decided

    def _verify_attempts(self, step: Step) -> None:
        expect, call = step["expect"], step.get("call", {})
        required = sum("optional" not in item for item in step["server"])
        attempts = self._server.wait_for_attempts(required)
        assert self._server.unscripted_attempts == 0
        assert required <= len(attempts) <= len(step["server"])
        sent = [self._fields_of(attempt) for attempt in attempts]
        for actual, expected in zip(sent, expect.get("attempts", ()), strict="attempts" in expect):
            assert {name: actual[name] for name in expected} == expected, (actual, expected)
        checks = [attempt for attempt in attempts if isinstance(attempt, CheckLimitRequest)]
        ids = {attempt.request_id for attempt in checks}
        assert len(ids) == min(1, len(checks))
        if "request_id" in call:
            assert ids <= {call["request_id"]}
        else:
            assert "" not in ids
            assert not ids & self._generated_ids
            self._generated_ids |= ids
        if "server_deadline_ms" in expect and attempts:
            assert self._server.deadlines[0] * 1000 <= expect["server_deadline_ms"] + _ROUNDING_MS

    def _fields_of(self, attempt: Any) -> dict[str, Any]:  # noqa: ANN401  a request of any method
        """The fields of a request that a case can have."""
        if not isinstance(attempt, GrantRequest):
            return _fields_of(attempt)
        if attempt.wants and attempt.grant_id not in self._grant_ids:
            assert re.fullmatch("[0-9a-f]{32}", attempt.grant_id)
            self._grant_ids.append(attempt.grant_id)
        fields = {name: getattr(attempt, name) for name in ("grant_id", "api_key", "key_id", "resource", "wants")}
        fields["cost"] = attempt.cost if attempt.HasField("cost") else 1
        return fields | {"returns": [self._returned(one) for one in attempt.returns]}

    def _returned(self, one: GrantReturn) -> dict[str, Any]:
        of = self._grant_ids.index(one.grant_id) + 1 if one.grant_id in self._grant_ids else "none"
        names = ("resource", "allowed", "denied", "cost", "limit")
        spent = [{name: getattr(line, name) for name in names} for line in one.spent]
        return {"of": of, "unused": one.unused, "spent": spent}


class _ListHandler(logging.Handler):
    """Keeps the text of warnings."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        self._texts.append(record.getMessage())


def _fields_of(attempt: Any) -> dict[str, Any]:  # noqa: ANN401  a request of any method
    """The fields of a request that a case can have."""
    if isinstance(attempt, SettleLimitRequest):
        cost = attempt.actual_cost if attempt.HasField("actual_cost") else None
        return {"reservation_id": attempt.reservation_id, "actual_cost": cost}
    hold = attempt.hold.ToTimedelta() / _MS if attempt.HasField("hold") else None
    if not isinstance(attempt, CheckLimitRequest):
        return {"reservation_id": attempt.reservation_id, "hold_ms": hold}
    fields = {name: getattr(attempt, name) for name in ("api_key", "key_id", "resource", "request_id", "attempt")}
    fields["cost"] = attempt.cost if attempt.HasField("cost") else 1
    return fields | {"charge": CheckLimitRequest.Charge.Name(attempt.charge), "hold_ms": hold}


def verify_decision(expect: dict[str, Any], decision: Decision) -> None:
    """Assert that DECISION is what a case expects."""
    actual: dict[str, Any] = {
        "allowed": decision.allowed,
        "reason": int(decision.reason) if isinstance(expect.get("reason"), int) else decision.reason.name,
        "source": decision.source.name,
        "origin": decision.origin.value,
        "retry_after_ms": _ms(decision.retry_after),
        "limits": _limits(decision.limits),
        "headers": {style.value: _headers(decision, style) for style in HeaderStyle},
    }
    actual |= {
        name: getattr(decision, name) for name in ("degraded", "key_id", "subject", "plan", "limit", "remaining")
    }
    expected = {name: value for name, value in expect.items() if name in actual}
    assert {name: actual[name] for name in expected} == expected
    _verify_refusal(expect, Refusal.for_decision(decision), decision.limit)


def _verify_settlement(expect: dict[str, Any], settlement: Settlement) -> None:
    """Assert that SETTLEMENT is what a case expects."""
    actual = settlement._asdict() | {"limits": _limits(settlement.limits)}
    expected = {name: value for name, value in expect.items() if name != "failure"}
    assert {name: actual[name] for name in expected} == expected
    if expect["failure"] is None:
        assert settlement.failure is None
    else:
        assert settlement.failure is not None
        _verify_error(expect["failure"], settlement.failure)


def _verify_error(expect: dict[str, Any], error: RateLimitError) -> None:
    actual = {"status": error.code.name, "message": error.message, "reason": error.reason, "field": error.field}
    assert {name: actual[name] for name in expect} == expect


def _limits(limits: tuple[LimitResult, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": limit.name,
            "remaining": limit.remaining,
            "reset_after_ms": _ms(limit.reset_after),
            "retry_after_ms": _ms(limit.retry_after),
            "shadow": limit.shadow,
        }
        for limit in limits
    ]


def _headers(decision: Decision, style: HeaderStyle) -> dict[str, str]:
    refusal = Refusal.for_decision(decision)
    return limit_headers(decision, style) if refusal is None else refusal.headers(style)


def _verify_refusal(expect: dict[str, Any], refusal: Refusal | None, limit: str) -> None:
    """Assert that REFUSAL is the response that a case expects. LIMIT is the binding limit, empty if there is none."""
    if "http" in expect:
        http = None if refusal is None else {"status": int(refusal.http_status), "problem": refusal.problem()}
        assert http == expect["http"]
    if "grpc" in expect:
        grpc = None if refusal is None else _grpc(refusal, limit)
        assert (grpc and {name: grpc[name] for name in expect["grpc"] or grpc}) == expect["grpc"]


def _grpc(refusal: Refusal, limit: str) -> dict[str, Any]:
    """What a caller with the standard messages of google.rpc reads from our status."""
    status = status_pb2.Status.FromString(refusal.grpc_status())
    assert (status.code, status.message) == (refusal.code.value[0], refusal.detail)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "ratelimit.v1"
    assert dict(info.metadata) == ({"limit": limit} if limit else {})
    retry = error_details_pb2.RetryInfo()
    delay = None
    if len(status.details) > 1:
        assert status.details[1].Unpack(retry)
        delay = retry.retry_delay.ToTimedelta() / _MS
    return {"code": refusal.code.name, "message": refusal.detail, "reason": info.reason, "retry_delay_ms": delay}


def _ms(wait: timedelta | None) -> float | None:
    return None if wait is None else wait / _MS
