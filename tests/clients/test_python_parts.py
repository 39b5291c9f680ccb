"""The parts of the Python client that no case of the contract covers."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from ratelimit_client import AsyncRateLimitClient, Failures, RateLimitClient, RateLimitError, Reason, Source
from ratelimit_client._denial_cache import CacheKey
from ratelimit_client._error_details import ErrorDetails, status_with_details
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse

from clients.conftest import ROOT
from clients.scripted_server import ScriptedServer

_WAITS = st.none() | st.timedeltas(timedelta(0), timedelta(days=400))


def test_reasons_and_sources_are_those_of_the_api() -> None:
    """Every reason and source of the API has its name and number here, and there are no others."""
    assert {reason.name: reason.value for reason in Reason} == dict(CheckLimitResponse.Reason.items())
    assert {source.name: source.value for source in Source} == dict(CheckLimitResponse.Source.items())


def test_an_unknown_reason_is_named_by_its_number() -> None:
    """A number that this version does not know can be printed and compared."""
    assert Reason(99).name == "REASON_99"
    assert Reason(99) == 99
    with pytest.raises(TypeError, match="not a number"):
        Reason("99")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"connections": 0}, "connections is 0; it must be at least 1"),
        ({"denial_cache_size": -1}, "denial_cache_size is -1; it must be at least 0"),
        ({"denial_cache_max_age": -1.0}, "denial_cache_max_age is -1.0"),
    ],
)
def test_an_option_out_of_bounds_is_rejected(options: dict[str, Any], message: str) -> None:
    """The error has the option, its value and the bound."""
    with pytest.raises(ValueError, match=message):
        RateLimitClient("localhost:1", **options)


@pytest.mark.parametrize("cost", [-1, 2**64])
def test_a_cost_that_cannot_be_encoded_is_raised(cost: int) -> None:
    """It is raised like a cost that the service rejects, and does not fail open."""
    with RateLimitClient("localhost:1") as client:
        with pytest.raises(RateLimitError, match=f"cost: is {cost}; it must be") as caught:
            client.check("rlk_test_a", cost=cost)
        assert client.failures == Failures(0, 0)
    error = caught.value
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "cost")


def test_the_largest_cost_is_sent(scripted: ScriptedServer) -> None:
    """Every cost of 64 bits is sent unchanged: the service bounds it."""
    scripted.script([{"response": {"allowed": True, "reason": "WITHIN_LIMIT"}}])
    with RateLimitClient(scripted.target, deadline=10) as client:
        client.check("rlk_test_a", "orders", cost=2**64 - 1)
    assert [attempt.cost for attempt in scripted.attempts] == [2**64 - 1]


async def test_a_check_at_a_cost_of_0_is_a_peek(scripted: ScriptedServer) -> None:
    """`check` with a cost of 0 and `peek` send the same request, from both clients."""
    allowed = {"response": {"allowed": True, "reason": "WITHIN_LIMIT"}}
    scripted.script([allowed] * 4)
    with RateLimitClient(scripted.target, deadline=10) as client:
        client.check("rlk_test_a", "orders", cost=0)
        client.peek("rlk_test_a", "orders")
    async with AsyncRateLimitClient(scripted.target, deadline=10) as aio_client:
        await aio_client.check(key_id="4fGh2kLm9PqR7sTv", cost=0)
        await aio_client.peek(key_id="4fGh2kLm9PqR7sTv")
    sent = [(attempt.api_key, attempt.key_id, attempt.resource, attempt.cost) for attempt in scripted.attempts]
    assert sent == [("rlk_test_a", "", "orders", 0)] * 2 + [("", "4fGh2kLm9PqR7sTv", "", 0)] * 2


def test_the_callback_and_the_decision_have_the_error(scripted: ScriptedServer) -> None:
    """A decision made because the service failed has its error, and `on_failure` gets the same one."""
    errors: list[RateLimitError] = []
    scripted.script([{"status": "INTERNAL", "message": "broken", "reason": "INTERNAL_FAULT"}])
    with RateLimitClient(scripted.target, deadline=10, on_failure=errors.append) as client:
        decision = client.check("rlk_test_a", "orders")
    assert errors == [decision.failure]
    assert (errors[0].code, errors[0].reason) == (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT")


def test_a_cached_denial_has_no_secret() -> None:
    """What the client caches a denial under does not contain the key."""
    key = CacheKey.of(CheckLimitRequest(api_key="rlk_test_secret", resource="orders", cost=1))
    assert "secret" not in repr(key)
    assert key != CacheKey.of(CheckLimitRequest(key_id="rlk_test_secret", resource="orders", cost=1))


@given(st.binary(max_size=200))
def test_invalid_details_are_ignored(garbage: bytes) -> None:
    """Whatever a server sends as details, reading them does not raise."""
    details = ErrorDetails.parse(garbage)
    assert isinstance(details.reason, str)
    assert isinstance(details.field, str)


def test_absent_details_are_empty() -> None:
    """An error without details has neither reason nor field."""
    assert ErrorDetails.parse(None) == ErrorDetails("", "")


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 16), st.text())
def test_details_are_read_as_google_writes_them(
    reason: str, field: str, metadata: dict[str, str], code: int, message: str
) -> None:
    """Reason and field of a status written with the standard messages are read correctly."""
    status = status_pb2.Status(code=code, message=message)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=field, description=message)
    bad.field_violations.add(field="second")
    for detail in (
        error_details_pb2.DebugInfo(detail=message),
        error_details_pb2.ErrorInfo(reason=reason, domain="x", metadata=metadata),
        bad,
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    assert ErrorDetails.parse(status.SerializeToString()) == ErrorDetails(reason, field)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 16), _WAITS)
def test_details_are_written_as_google_reads_them(
    message: str, reason: str, metadata: dict[str, str], code: int, wait: timedelta | None
) -> None:
    """The standard messages read the same values from our bytes."""
    status = status_pb2.Status.FromString(status_with_details(code, message, reason, metadata, wait))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert (status.code, status.message) == (code, message)
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "ratelimit.v1", metadata)
    if wait is None:
        assert len(status.details) == 1
    else:
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta() == wait


def test_stubs_of_another_version_do_not_conflict() -> None:
    """A process that has another version of the same protos can use the client."""
    program = """
from google.protobuf import descriptor_pb2, descriptor_pool
other = descriptor_pb2.FileDescriptorProto(name="ratelimit/v1/errors.proto", package="ratelimit.v1", syntax="proto3")
other.message_type.add(name="SomethingElse")
descriptor_pool.Default().Add(other)
import ratelimit_client
print(ratelimit_client.Reason.OVER_LIMIT.name)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": str(ROOT / "clients" / "python" / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "OVER_LIMIT\n", "")
