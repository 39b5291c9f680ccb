"""The contract's files: the cases are as their README describes them, and the service config works."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse

from clients.contract import FOLDER, Case, Step, cases, read
from clients.scripted_server import RESPONSES, ScriptedServer

_WITHOUT_STEPS = {"service_config", "targets", "tokens"}
_FILES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in _WITHOUT_STEPS)
_OPTIONS = {"deadline_ms", "fail_open", "connections", "denial_cache_size", "denial_cache_max_age_ms"} | {
    "connect_timeout_ms",
    "on_failure",
    "mode",
    "near_limit",
}
_TEXTS = {"api_key", "key_id", "resource", "request_id"}
_GENERATED = {"invalid_utf8", "oversized"}
_ABANDONING = {"deadline_ms", "cancel_after_ms"}
_CHECK = {"cost", "peek", "charge"}
_RESERVE = {"estimate", "hold_ms"}
_SCOPE = {"on_error", "extend", "settle", "error", "until_attempts", "wait_ms"}
_CONFIG = (FOLDER / "service_config.json").read_text()
_EXPECT = (
    {"allowed", "reason", "source", "origin", "key_id", "subject", "plan", "limit", "remaining", "retry_after_ms"}
    | {"limits", "error", "failures", "headers", "http", "grpc", "attempts", "server_deadline_ms", "duration_ms"}
    | {"response", "abandoned", "reservation_id", "settlement", "extended", "degraded", "ready", "logged", "grants"}
)


def test_every_file_is_known() -> None:
    """A new file of cases is detected: the tests that run the cases name their files."""
    known = {"cancellation", "decisions", "denial_cache", "failures", "headers", "middleware", "reservations"}
    assert set(_FILES) == known | {"close", "first_connection", "grants", "ready", "warnings"}


@pytest.mark.parametrize("name", [*_FILES, "targets", "tokens"])
def test_the_names_of_cases_are_unique(name: str) -> None:
    """A name identifies a case in the output of every runner."""
    names = [case["name"] for case in read(name)]
    assert len(names) == len(set(names)) > 0


@cases(*_FILES)
def test_a_case_has_only_what_the_readme_describes(case: Case) -> None:
    """A field that no runner knows would not be verified."""
    assert case.keys() <= {"name", "options", "steps", "accepts_after_ms", "stream"}
    assert case.get("options", {}).keys() <= _OPTIONS
    for step in case["steps"]:
        if "advance_ms" in step:
            assert step.keys() == {"advance_ms"}
            continue
        if "close" in step and "server" not in step:
            assert step == {"close": True}
            continue
        (kind,) = step.keys() - {"server", "expect"}
        assert step.keys() == {kind, "server", "expect"}
        assert step["expect"].keys() <= _EXPECT
        if kind not in {"close", "withdraw"}:
            assert step[kind].keys() <= _fields_of(kind, step[kind])
        call = step.get("call", step.get("scope", {}))
        assert {call[name] for name in _GENERATED & call.keys()} <= _TEXTS - call.keys()
        for item in step["server"]:
            fields = item.keys() - {"method"}
            assert fields == {"response"} or fields <= {"hang", "optional"} or "status" in item
            json_format.ParseDict(item.get("response", {}), RESPONSES[item.get("method", "CheckLimit")]())


def _fields_of(kind: str, step: Step) -> set[str]:
    """The fields that a step of this kind may have."""
    fields = {
        "call": _TEXTS | _GENERATED | _ABANDONING | ({"reserve", *_RESERVE} if "reserve" in step else _CHECK),
        "scope": _TEXTS | _GENERATED | _RESERVE | _SCOPE,
        "settle": {"actual"} | _ABANDONING,
        "extend": {"hold_ms"},
        "request": {"method", "path", "headers"},
        "ready": {"timeout_ms"},
        "wait": set(),
    }
    return fields[kind]


@cases(*(name for name in _FILES if name != "cancellation"))
def test_only_one_file_has_abandoned_calls(case: Case) -> None:
    """A client whose calls cannot be abandoned skips that file and runs all others."""
    for step in case["steps"]:
        assert not {*step.get("call", ()), *step.get("settle", ())} & _ABANDONING
        assert "abandoned" not in step.get("expect", {})


@contextmanager
def _configured(config: str, target: str) -> Iterator[Any]:
    """A bare stub with a service config."""
    with grpc.insecure_channel(target, options=[("grpc.service_config", config)]) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        yield channel.unary_unary(
            "/ratelimit.v1.RateLimitService/CheckLimit",
            CheckLimitRequest.SerializeToString,
            CheckLimitResponse.FromString,
        )


def test_the_service_config_retries_once(scripted: ScriptedServer) -> None:
    """A bare stub with the config sends a call again on UNAVAILABLE, with the same request id, and no third time."""
    scripted.script([{"status": "UNAVAILABLE"}, {"status": "UNAVAILABLE", "message": "second"}])
    slow = _CONFIG.replace('"timeout": "0.050s"', '"timeout": "10s"')  # the next test is about the deadline
    assert slow != _CONFIG
    with _configured(slow, scripted.target) as check_limit, pytest.raises(grpc.RpcError) as caught:
        check_limit(CheckLimitRequest(api_key="rlk_test_a", request_id="order-1"))
    assert caught.value.details() == "second"
    assert [attempt.request_id for attempt in scripted.attempts] == ["order-1", "order-1"]


def test_the_service_config_has_the_deadline(scripted: ScriptedServer) -> None:
    """A bare stub with the config has the deadline without setting one for the call."""
    scripted.script([{"hang": True}])
    with _configured(_CONFIG, scripted.target) as check_limit, pytest.raises(grpc.RpcError) as caught:
        check_limit(CheckLimitRequest(api_key="rlk_test_a", request_id="order-1"))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
