"""The contract's own files: the cases are as their README describes them, and the service config works."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse

from clients.contract import FOLDER, Case, cases, read
from clients.scripted_server import ScriptedServer

_FILES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "service_config")
_OPTIONS = {"deadline_ms", "fail_open", "connections", "denial_cache_size", "denial_cache_longest_ms"}
_TEXTS = {"api_key", "key_id", "resource", "request_id"}
_ODD = {"not_text", "too_long"}
_IMPATIENT = {"deadline_ms", "cancel_after_ms"}
_CONFIG = (FOLDER / "service_config.json").read_text()
_SEES = (
    {"allowed", "reason", "source", "origin", "key_id", "subject", "plan", "limit", "remaining", "retry_after_ms"}
    | {"limits", "raises", "failures", "headers", "http", "grpc", "attempts", "server_deadline_ms", "took_ms"}
    | {"response", "ended"}
)


def test_every_file_is_known() -> None:
    """A new file of cases is noticed: the tests that run the cases name their files."""
    assert _FILES == ["decisions", "denial_cache", "failures", "giving_up", "headers", "middleware"]


@pytest.mark.parametrize("name", _FILES)
def test_no_two_cases_have_one_name(name: str) -> None:
    """A name says what must hold, and so can be pointed at."""
    names = [case["name"] for case in read(name)]
    assert len(names) == len(set(names)) > 0


@cases(*_FILES)
def test_a_case_has_only_what_the_readme_describes(case: Case) -> None:
    """A field that no runner knows would be a promise that nobody checks."""
    assert case.keys() <= {"name", "options", "steps"}
    assert case.get("options", {}).keys() <= _OPTIONS
    for step in case["steps"]:
        if "advance_ms" in step:
            assert step.keys() == {"advance_ms"}
            continue
        assert step.keys() in ({"call", "server", "sees"}, {"request", "server", "sees"})
        assert step["sees"].keys() <= _SEES
        call = step.get("call", {})
        assert call.keys() <= _TEXTS | {"cost"} | _ODD | _IMPATIENT
        assert {call[name] for name in _ODD & call.keys()} <= _TEXTS - call.keys()
        assert step.get("request", {}).keys() <= {"method", "path", "headers"}
        for item in step["server"]:
            assert item.keys() == {"answer"} or item.keys() <= {"hang", "may_miss"} or "status" in item
            json_format.ParseDict(item.get("answer", {}), CheckLimitResponse())


@cases(*(name for name in _FILES if name != "giving_up"))
def test_only_one_file_is_about_giving_up(case: Case) -> None:
    """A client whose calls cannot be ended early can leave that file out, and runs all others."""
    for step in case["steps"]:
        assert not step.get("call", {}).keys() & _IMPATIENT
        assert "ended" not in step.get("sees", {})


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
    patient = _CONFIG.replace('"timeout": "0.050s"', '"timeout": "10s"')  # the deadline is the next test's
    assert patient != _CONFIG
    with _configured(patient, scripted.target) as check_limit, pytest.raises(grpc.RpcError) as caught:
        check_limit(CheckLimitRequest(api_key="rlk_test_a", request_id="order-1"))
    assert caught.value.details() == "second"
    assert [attempt.request_id for attempt in scripted.attempts] == ["order-1", "order-1"]


def test_the_service_config_has_the_deadline(scripted: ScriptedServer) -> None:
    """A bare stub with the config gives up by itself, without a deadline in the call."""
    scripted.script([{"hang": True}])
    with _configured(_CONFIG, scripted.target) as check_limit, pytest.raises(grpc.RpcError) as caught:
        check_limit(CheckLimitRequest(api_key="rlk_test_a", request_id="order-1"))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
