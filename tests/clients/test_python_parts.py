"""The parts of the Python client that no case of the contract reaches."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from ratelimit_client import InvalidCheck, RateLimitClient, Reason, Source
from ratelimit_client._details import StatusDetails, refusal_status
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_client.denials import CallKey

from clients.conftest import ROOT

_WAITS = st.none() | st.timedeltas(timedelta(0), timedelta(days=400))


def test_reasons_and_sources_are_those_of_the_api() -> None:
    """Every reason and source of the API has its name and number here, and there are no others."""
    assert {reason.name: reason.value for reason in Reason} == dict(CheckLimitResponse.Reason.items())
    assert {source.name: source.value for source in Source} == dict(CheckLimitResponse.Source.items())


def test_a_reason_of_a_newer_server_has_a_name_that_says_so() -> None:
    """A number that this version does not know can be told and compared."""
    assert Reason(99).name == "REASON_99"
    assert Reason(99) == 99
    with pytest.raises(TypeError, match="not a number"):
        Reason("99")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"connections": 0}, "connections is 0; it must be at least 1"),
        ({"denial_cache_size": -1}, "denial_cache_size is -1; it must be at least 0"),
        ({"denial_cache_longest": -1.0}, "denial_cache_longest is -1.0"),
    ],
)
def test_an_option_out_of_bounds_is_refused(options: dict[str, Any], told: str) -> None:
    """The error names the option, its value and the bound."""
    with pytest.raises(ValueError, match=told):
        RateLimitClient("localhost:1", **options)


@pytest.mark.parametrize("cost", [-1, 2**32])
def test_a_cost_that_cannot_be_encoded_is_the_callers_fault(cost: int) -> None:
    """It is told as the service tells a cost out of bounds, and does not fail open."""
    with RateLimitClient("localhost:1") as client:
        with pytest.raises(InvalidCheck, match=f"cost: is {cost}; it must be") as caught:
            client.check("rlk_test_a", cost=cost)
        assert client.failures.open == 0
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "cost")


def test_a_remembered_denial_holds_no_secret() -> None:
    """What the client remembers a key by does not contain it."""
    key = CallKey.of(CheckLimitRequest(api_key="rlk_test_secret", resource="orders", cost=1))
    assert "secret" not in repr(key)
    assert key != CallKey.of(CheckLimitRequest(key_id="rlk_test_secret", resource="orders", cost=1))


@given(st.binary(max_size=200))
def test_details_that_are_garbage_say_nothing(garbage: bytes) -> None:
    """Whatever a server sends as details, reading them does not fail the call."""
    details = StatusDetails.parse(garbage)
    assert isinstance(details.reason, str)
    assert isinstance(details.field, str)


def test_no_details_say_nothing() -> None:
    """An error without details has neither reason nor field."""
    assert StatusDetails.parse(None) == StatusDetails("", "")


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 16), st.text())
def test_details_are_read_as_google_writes_them(
    reason: str, field: str, metadata: dict[str, str], code: int, message: str
) -> None:
    """Reason and field of a status that the stock messages wrote come out as they went in."""
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
    assert StatusDetails.parse(status.SerializeToString()) == StatusDetails(reason, field)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 16), _WAITS)
def test_details_are_written_as_google_reads_them(
    message: str, reason: str, metadata: dict[str, str], code: int, wait: timedelta | None
) -> None:
    """The stock messages read from our bytes what we put in."""
    status = status_pb2.Status.FromString(refusal_status(code, message, reason, metadata, wait))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert (status.code, status.message) == (code, message)
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "ratelimit.v1", metadata)
    if wait is None:
        assert len(status.details) == 1
    else:
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta() == wait


def test_stubs_of_another_version_do_no_harm() -> None:
    """A process that has another version of the same protos can use the client all the same."""
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
