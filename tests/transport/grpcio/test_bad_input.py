"""Everything that a caller can get wrong: a clear error, nothing charged, no secret logged."""

import logging

import grpc
import pytest
from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.management.tokens import Role
from transport.grpcio.conftest import FREE
from transport.grpcio.running import ADMIN, CHECKS, METHODS, Refusal, RunningServer, refusal

Reason, Source = checks_pb2.CheckLimitResponse.Reason, checks_pb2.CheckLimitResponse.Source
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PERIOD = {"seconds": 1}
ODD = {"seconds": 86_399, "nanos": 999_999_000}


def bucket(**changes: object) -> dict[str, object]:
    """A limit with a token bucket, with CHANGES to it."""
    return {"name": "b", "token_bucket": {"capacity": 5, "refill_tokens": 5, "refill_period": PERIOD} | changes}


async def remaining(running: RunningServer, api_key: str) -> int:
    """Tokens left in the key's smallest bucket."""
    peek = await running.check(api_key=api_key, resource="r", cost=0)
    assert isinstance(peek, checks_pb2.CheckLimitResponse)
    return int(peek.limits[0].remaining)


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"resource": "x" * 257}, "resource"),
        ({"resource": "é" * 129}, "resource"),
        ({"resource": "a\nb"}, "resource"),
        ({"resource": "a\x7fb"}, "resource"),
        ({"cost": 9_007_199_255}, "cost"),
        ({"cost": 2**34}, "cost"),
        ({"cost": 2**64 - 1}, "cost"),
        ({"request_id": "x" * 129}, "request_id"),
    ],
)
async def test_a_malformed_check_names_its_field(
    running: RunningServer, api_key: str, fields: dict[str, object], invalid: str
) -> None:
    """INVALID_ARGUMENT with reason INVALID_FIELD and the field; the bucket is as full as before."""
    answer = await running.check(api_key=api_key, **fields)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "INVALID_FIELD", [invalid])
    assert invalid in answer.message
    assert await remaining(running, api_key) == 20


@pytest.mark.parametrize(
    "credential",
    ["nonsense", "rlk_live_0123456789abcdef", "rlk_live_0123456789abcdef_" + "x" * 40, "\u0000", "x" * 5000],
)
async def test_a_malformed_key_is_unknown_without_a_lookup(running: RunningServer, credential: str) -> None:
    """A garbled key is a decision, since gateways fail open on errors, and Postgres is not queried."""
    misses = running.planes.policies.misses
    answer = await running.check(api_key=credential, resource="r")
    assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
    assert (answer.allowed, answer.reason, answer.source) == (False, Reason.KEY_UNKNOWN, Source.POLICY)
    assert running.planes.policies.misses == misses


@pytest.mark.parametrize("fields", [{}, {"api_key": ""}, {"key_id": ""}], ids=["none", "api_key", "key_id"])
async def test_no_key_is_an_error(running: RunningServer, fields: dict[str, str]) -> None:
    """INVALID_ARGUMENT on field api_key when no credential is sent."""
    answer = await running.check(resource="r", **fields)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.fields) == (INVALID, ["api_key"])


async def test_an_unknown_key_is_a_decision(running: RunningServer, api_key: str) -> None:
    """A mistyped key, one that was never created, and one with the secret of another are denied as unknown."""
    stranger = ApiKey.generate("live")
    known = ApiKey.parse(api_key)
    assert known is not None
    forged = ApiKey("live", known.key_id, stranger.secret)
    mistyped = api_key[:-9] + ("a" if api_key[-9] != "a" else "b") + api_key[-8:]
    for credential in (stranger, forged, mistyped):
        answer = await running.check(api_key=str(credential), resource="r")
        assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
        assert (answer.allowed, answer.reason, answer.key_id) == (False, Reason.KEY_UNKNOWN, "")


@pytest.mark.parametrize(
    ("action", "reason"), [("suspend", Reason.KEY_SUSPENDED), ("revoke", Reason.KEY_REVOKED)], ids=["suspend", "revoke"]
)
async def test_an_inactive_key_is_a_decision(running: RunningServer, action: str, reason: int) -> None:
    """A suspended or revoked key is denied with its reason, status OK."""
    made = (await running.key("create", plan="free", subject="someone")).create
    await running.key(action, key_id=made.key.key_id)
    answer = await running.check(api_key=made.secret)
    assert isinstance(answer, checks_pb2.CheckLimitResponse), answer
    assert (answer.allowed, answer.reason) == (False, reason)
    assert not answer.HasField("retry_after")


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "detail"),
    [
        ("ManageKey", admin_pb2.ManageKeyRequest(), INVALID, "INVALID_FIELD", "action"),
        ("ManageKey", admin_pb2.ManageKeyRequest(list={"page_size": -1}), INVALID, "INVALID_FIELD", "list.page_size"),
        ("ManageKey", admin_pb2.ManageKeyRequest(list={"page_size": 1001}), INVALID, "INVALID_FIELD", "list.page_size"),
        (
            "ManageKey",
            admin_pb2.ManageKeyRequest(list={"page_token": "x"}),
            INVALID,
            "INVALID_FIELD",
            "list.page_token",
        ),
        ("ManageKey", admin_pb2.ManageKeyRequest(create={"plan": "free"}), INVALID, "INVALID_FIELD", "create.subject"),
        (
            "ManageKey",
            admin_pb2.ManageKeyRequest(create={"plan": "no-such", "subject": "s"}),
            grpc.StatusCode.NOT_FOUND,
            "PLAN_NOT_FOUND",
            {"plan": "no-such"},
        ),
        (
            "ManageKey",
            admin_pb2.ManageKeyRequest(get={"key_id": "0123456789abcdef"}),
            grpc.StatusCode.NOT_FOUND,
            "KEY_NOT_FOUND",
            {"key_id": "0123456789abcdef"},
        ),
        ("ManagePlan", admin_pb2.ManagePlanRequest(), INVALID, "INVALID_FIELD", "action"),
        (
            "ManagePlan",
            admin_pb2.ManagePlanRequest(create={"plan": {"name": "p"}}),
            INVALID,
            "INVALID_FIELD",
            "create.plan.limits",
        ),
        (
            "ManagePlan",
            admin_pb2.ManagePlanRequest(create={"plan": FREE}),
            grpc.StatusCode.ALREADY_EXISTS,
            "PLAN_EXISTS",
            {"plan": "free"},
        ),
    ]
    + [
        (
            "ManagePlan",
            admin_pb2.ManagePlanRequest(create={"plan": {"name": "p", "limits": limits}}),
            INVALID,
            "INVALID_FIELD",
            f"create.plan.{path}",
        )
        for limits, path in (
            ([bucket(capacity=0)], "limits[0].token_bucket.capacity"),
            ([bucket(refill_period={})], "limits[0].token_bucket.refill_period"),
            ([bucket(refill_period={"seconds": 31 * 86_400 + 1})], "limits[0].token_bucket.refill_period"),
            ([bucket(refill_tokens=9_007_199, refill_period=ODD)], "limits[0].token_bucket.refill_tokens"),
            ([bucket(capacity=9_007_199_255)], "limits[0].token_bucket.capacity"),
            ([bucket(), bucket()], "limits[1].name"),
            ([{"name": "q", "quota": {"amount": 0, "window": "DAY"}}], "limits[0].quota.amount"),
            ([{"name": "q", "quota": {"amount": 5}}], "limits[0].quota.window"),
        )
    ],
)
async def test_a_malformed_admin_call_reports_what_is_wrong(  # noqa: PLR0917 a table
    running: RunningServer,
    method: str,
    request_: Message,
    code: grpc.StatusCode,
    reason: str,
    detail: str | dict[str, str],
) -> None:
    """The code, the reason, and the path of the invalid field or the metadata that errors.proto lists."""
    answer = await running.admin(method, request_)
    assert isinstance(answer, Refusal), answer
    assert (answer.code, answer.reason) == (code, reason), answer.message
    if isinstance(detail, str):
        assert answer.fields == [detail]
    else:
        assert dict(answer.info.metadata) == detail


async def test_an_update_needs_a_mask_and_the_current_etag(running: RunningServer) -> None:
    """An empty or unknown mask names update_mask; an etag that is not the current one is ABORTED and names the key."""
    key = (await running.key("create", plan="free", subject="someone")).create.key
    for paths in ([], ["secret"]):
        answer = await running.admin(
            "ManageKey",
            admin_pb2.ManageKeyRequest(update={"key": {"key_id": key.key_id}, "update_mask": {"paths": paths}}),
        )
        assert isinstance(answer, Refusal)
        assert (answer.code, answer.fields) == (INVALID, ["update.update_mask"])
    change = {"key_id": key.key_id, "description": "new"}
    mask = {"paths": ["description"]}
    changed = (await running.key("update", key=change | {"etag": key.etag}, update_mask=mask)).update.key
    answer = await running.admin(
        "ManageKey", admin_pb2.ManageKeyRequest(update={"key": change | {"etag": key.etag}, "update_mask": mask})
    )
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert dict(answer.info.metadata) == {"etag": key.etag, "current_etag": changed.etag}
    assert answer.preconditions == [("ETAG", f"keys/{key.key_id}")]


async def test_a_plan_in_use_is_not_deleted(running: RunningServer) -> None:
    """FAILED_PRECONDITION with the number of keys that are on it."""
    await running.plan("create", plan=FREE | {"name": "used"})
    await running.key("create", plan="used", subject="someone")
    answer = await running.admin("ManagePlan", admin_pb2.ManagePlanRequest(delete={"name": "used"}))
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_IN_USE")
    assert dict(answer.info.metadata) == {"plan": "used", "keys": "1"}


@pytest.mark.parametrize("role", [Role.ADMIN, Role.VIEWER])
@pytest.mark.parametrize("method", sorted(METHODS))
async def test_a_message_over_the_bound_is_refused(running: RunningServer, method: str, role: Role) -> None:
    """A byte more than 64 KiB, or than 1 MB for admins, is RESOURCE_EXHAUSTED with both sizes, at every method."""
    limit = 1_000_000 if "KeyAdminService" in method and role is Role.ADMIN else 65_536
    answer = await running.send(method, b"\x22" * (limit + 1), running.tokens[role])
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert dict(answer.info.metadata) == {"size": str(limit + 1), "limit": str(limit)}


async def test_a_message_of_64_kib_is_read(running: RunningServer, api_key: str) -> None:
    """Exactly 64 KiB are accepted: the error is about the field, not the size."""
    request = checks_pb2.CheckLimitRequest(api_key=api_key)
    request.resource = "x" * (65_536 - len(request.SerializeToString()) - 4)
    assert len(request.SerializeToString()) == 65_536
    answer = await running.check(api_key=api_key, resource=request.resource)
    assert isinstance(answer, Refusal)
    assert answer.fields == ["resource"]


async def test_a_huge_message_is_refused_by_the_library(running: RunningServer) -> None:
    """Above 1 MiB nothing is even read: RESOURCE_EXHAUSTED, without details."""
    answer = await running.send(f"{CHECKS}/CheckLimit", b"\x22" * (1024 * 1024 + 1))
    assert isinstance(answer, Refusal)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED


_NOT_UTF_8 = b"\x0a\x02\xc3\x28"
_WITHOUT_TEXT = {"/ratelimit.v1.KeyAdminService/ListAlerts", "/ratelimit.v1.KeyAdminService/TestAlert"}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05abc", _NOT_UTF_8], ids=["garbage", "cut", "utf-8"])
async def test_invalid_messages_are_refused(running: RunningServer, method: str, data: bytes) -> None:
    """Garbage, a message cut short and text that is not UTF-8 are INVALID_ARGUMENT at every method."""
    if data == _NOT_UTF_8 and method in _WITHOUT_TEXT:
        data = b"\x0a\x05"  # their first field is no text, so that this one is unknown to them: cut it short too
    answer = await running.send(method, data, running.tokens[Role.ADMIN])
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "INVALID_FIELD", ["message"])


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_has_1_to_256_checks(running: RunningServer, count: int) -> None:
    """An empty and an oversized batch name the field."""
    request = checks_pb2.BatchCheckLimitRequest(checks=[checks_pb2.CheckLimitRequest()] * count)
    answer = await running.send(f"{CHECKS}/BatchCheckLimit", request.SerializeToString())
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.fields) == (INVALID, ["checks"])


@pytest.mark.parametrize("method", ["/ratelimit.v1.RateLimitService/Nothing", "/no.such.Service/CheckLimit", "/x"])
async def test_an_unknown_method_is_unimplemented(running: RunningServer, method: str) -> None:
    """UNIMPLEMENTED with the method's name, whether the caller sends one message or a stream."""
    for call in (
        running.channel.unary_unary(method)(b"", timeout=10),
        running.channel.stream_unary(method)(iter(()), timeout=10),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        answer = refusal(caught.value)
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")
        assert dict(answer.info.metadata) == {"method": method}


async def test_a_call_without_a_message_is_answered(running: RunningServer) -> None:
    """A caller that closes without having sent a message gets an error at once and does not hang."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.channel.stream_unary(f"{CHECKS}/CheckLimit")(iter(()), timeout=10)
    assert refusal(caught.value).reason == "NOT_SERVED"


async def test_an_invalid_check_of_a_batch_fails_alone(running: RunningServer, api_key: str) -> None:
    """Answers come in order, and a malformed check among them costs the others nothing."""
    good = checks_pb2.CheckLimitRequest(api_key=api_key, resource="r")
    bad = checks_pb2.CheckLimitRequest(api_key=api_key, resource="r", cost=9_007_199_255)
    request = checks_pb2.BatchCheckLimitRequest(checks=[good, bad, good])
    answer = await running.send(f"{CHECKS}/BatchCheckLimit", request.SerializeToString())
    assert isinstance(answer, checks_pb2.BatchCheckLimitResponse), answer
    first, second, third = answer.results
    assert [first.decision.remaining, third.decision.remaining] == [19, 18]
    assert (second.error.code, second.error.field) == (INVALID.value[0], "cost")


async def test_no_secret_of_a_call_is_logged(
    running: RunningServer, api_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For whatever reason a call is refused, neither its key nor its token is in the log."""
    caplog.set_level(logging.DEBUG)
    token = running.tokens[Role.ADMIN]
    await running.check(api_key=api_key, cost=9_007_199_255)
    await running.check(api_key=api_key + "x")
    await running.check(api_key=api_key, token=token + "x")
    await running.send(f"{ADMIN}/ManageKey", b"\xff", token)
    await running.key("create", plan="free", subject="someone")
    assert api_key[-30:] not in caplog.text
    assert token[-30:] not in caplog.text
