"""Messages in JSON: what is read, and how each mistake is named."""

import json
import time

import pytest

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    CheckLimitResponse,
)
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.transport.connect.messages import MAX_DEPTH, MAX_VALUES, read_message, write_message
from ratelimit_service.transport.connect.methods import METHODS, STREAMS

PLAN = {"create": {"plan": {"name": "x", "limits": [{"name": "b", "quota": {"amount": 7, "window": "DAY"}}]}}}


def test_messages_are_proto3_json() -> None:
    """Names are those of the protos; whole numbers of 64 bits may be texts, and are written so."""
    check = read_message(b'{"api_key": "k", "cost": "3", "hold": "1.5s", "request_id": null}', CheckLimitRequest)
    assert (check.api_key, check.cost, check.hold.ToMilliseconds(), check.request_id) == ("k", 3, 1500, "")
    assert read_message(json.dumps(PLAN).encode(), ManagePlanRequest).create.plan.limits[0].quota.amount == 7
    written = json.loads(write_message(CheckLimitResponse(remaining=2)))
    assert (written["allowed"], written["remaining"], written["reason"]) == (False, "2", "REASON_UNSPECIFIED")
    assert "retry_after" not in written


@pytest.mark.parametrize(
    ("text", "field", "description"),
    [
        ("", "message", "is empty; send a JSON object, {} for a message without fields"),
        ("{", "message", "is not JSON: Expecting property name"),
        ("[]", "message", "is a list; send an object with the fields of ratelimit.v1.BatchCheckLimitRequest"),
        ("5", "message", "is a number; send an object"),
        ('{"checks":[],"checks":[]}', "message", "is not JSON: 'checks' is given twice"),
        ('{"checks":[{"cost":NaN}]}', "message", "is not JSON: NaN is no number of JSON"),
        ('{"cheks":[]}', "cheks", "unknown field; did you mean `checks`?"),
        ('{"checks":[{"cost":1},{"csot":1}]}', "checks[1].csot", "unknown field; did you mean `cost`?"),
        ('{"checks":[{"cost":"many"}]}', "checks[0].cost", "is 'many'; write a whole number within bounds"),
        ('{"checks":[{"cost":-1}]}', "checks[0].cost", "is '-1'; write a whole number within bounds"),
        ('{"checks":[{"cost":true}]}', "checks[0].cost", "is 'true'; write a whole number within bounds"),
        ('{"checks":[{"resource":5}]}', "checks[0].resource", "is 5, which is no text; write it in quotes"),
        ('{"checks":[{"charge":"ALWAY"}]}', "checks[0].charge", "did you mean `ALWAYS`?"),
        ('{"checks":[{"hold":30}]}', "checks[0].hold", "write a duration in seconds: 90s, 0.25s"),
        ('{"checks":{}}', "checks", "is an object; write a list"),
        ('{"checks":[7]}', "checks[0]", "is a single value; write an object"),
        ('{"checks":[{"api_key":"a","key_id":"b"}]}', "message", "should not have multiple"),
        ('{"checks":[{"resource":"\\ud800"}]}', "message", "has half of a surrogate pair"),
        ('{"\\udfff":1}', "message", "has half of a surrogate pair"),
        ('{"checks":[{"cost":' + "9" * 5_000 + "}]}", "message", "is not JSON: Exceeds the limit"),
        ('{"checks":[{"cost":1e400}]}', "checks[0].cost", "is 'Infinity'; write a whole number"),
        ('{"checks":' * 2_000 + "1" + "}" * 2_000, "message", f"more than {MAX_DEPTH} objects and lists"),
        ("[" * 65_000, "message", "is not JSON|more than 64 objects"),
        ('{"checks":[' + "{}," * MAX_VALUES + "{}]}", "message", f"has more than {MAX_VALUES:,} values"),
    ],
)
def test_what_does_not_fit_is_named(text: str, field: str, description: str) -> None:
    """The error has the path of the field and what to write there, as on the command line; else what is wrong."""
    with pytest.raises(InvalidArgument) as raised:
        read_message(text.encode(), BatchCheckLimitRequest)
    (violation,) = raised.value.violations
    assert violation.field == field
    assert any(each in violation.description for each in description.split("|"))
    violation.description.encode()


def test_bytes_that_are_no_text() -> None:
    """JSON is UTF-8."""
    with pytest.raises(InvalidArgument, match="is not UTF-8"):
        read_message(b'{"checks":"\xff"}', BatchCheckLimitRequest)


def test_mistakes_are_found_in_bounded_time() -> None:
    """The largest messages, right but for their last value, are refused in a fraction of a second."""
    rows = [{"cost": 1, "resource": "a"}] * (MAX_VALUES // 3 - 2)
    texts = [
        json.dumps({"checks": [*rows, {"cost": "x"}]}),
        json.dumps({"checks": [{"resource": "\\" * 30_000, "cost": "x"}]}),
        json.dumps({"x" * 60_000: 1}),
        "{" + "".join(f'"{number:x}":0,' for number in range(7_500)) + '"twice":0,"twice":0}',
    ]
    for text in texts:
        assert min(seconds_to_refuse(text) for _ in range(3)) < 0.5, text[:40]


def seconds_to_refuse(text: str) -> float:
    """Seconds of CPU until a message is refused."""
    began = time.process_time()
    with pytest.raises(InvalidArgument):
        read_message(text.encode(), BatchCheckLimitRequest)
    return time.process_time() - began


def test_every_unary_method_is_served() -> None:
    """All of RateLimitService and KeyAdminService but the one stream."""
    assert {path.rpartition("/")[2] for path in STREAMS} == {"StreamCheckLimit", "StreamGrant"}
    assert {path.rpartition("/")[0] for path in METHODS} == {
        "/ratelimit.v1.KeyAdminService",
        "/ratelimit.v1.RateLimitService",
    }
    assert len(METHODS) == 16
