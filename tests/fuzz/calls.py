"""Targets that take what a stranger sends to the public port: framing, checks, and requests of Envoy's protocols."""

import asyncio
from contextlib import suppress
from functools import cache

from google.protobuf.message import DecodeError, Message

from fuzz.choices import Choices
from fuzz.harness import Target
from fuzz.worlds import DOMAIN, HELD, KEY, REVOKED, UNKNOWN, World
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import (
    RateLimitQuotaResponse,
    RateLimitQuotaUsageReports,
)
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    BatchCheckLimitResponse,
    CheckLimitRequest,
    CheckLimitResponse,
    ExtendHoldRequest,
    ExtendHoldResponse,
    GrantRequest,
    GrantResponse,
    SettleLimitRequest,
    SettleLimitResponse,
    StreamGrantRequest,
    StreamGrantResponse,
)
from ratelimit_service.api.authentication import Caller, Role
from ratelimit_service.api.messages import MAX_MESSAGE
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.transport.envoy.framing import (
    FrameReader,
    NotGrpc,
    ProtocolError,
    deadline_of,
    frame,
    headers_of,
    single_message,
)
from ratelimit_service.transport.envoy.paths import (
    AUTHORIZE,
    BATCH,
    CHECK,
    EXTEND,
    GRANT,
    SETTLE,
    SHOULD_RATE_LIMIT,
    STREAM_GRANTS,
)

_KEYS = [str(KEY), str(REVOKED), str(UNKNOWN), f"Bearer {KEY}", f"bearer  {REVOKED} ", str(KEY)[:-1], "Bearer"]
_ENTRY_KEYS = ["a", "b", "path", "shared", "blocked", "api_key", "resource", "reservation_id"]
_VALUES = ["x", "xy", "/orders/1", "", *_KEYS[:3]]

_LARGE = 250
"""Twice this byte makes a message as large as it may be, or larger. Few are, which would take most of the time."""

_GRANT_IDS = [f"{number:032x}" for number in range(8)]

world = cache(World)
"""One for all runs of a process, so that what one request leaves behind meets the next."""


def framing(data: bytes) -> None:
    """However a body is cut into parts, the same messages are read, within bounds; headers are read or refused."""
    choices = Choices(data)
    encoding = choices.pick([None, b"identity", b"gzip", b"\xff"])
    cuts = [choices.byte() for _ in range(choices.byte() % 8)]
    body = choices.rest()
    whole, parts = FrameReader(encoding), FrameReader(encoding)
    expected = whole.feed(body)
    found, rest = [], body
    for cut in [*cuts, len(body)]:
        if parts.error is None:
            found += parts.feed(rest[:cut])
            assert len(parts._rest) <= MAX_MESSAGE + 5
        rest = rest[cut:]
    assert found == expected
    assert type(parts.error) is type(whole.error)
    only = single_message(body)
    assert only is None or expected == [only]
    headers = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", body[:16])]
    with suppress(ProtocolError, NotGrpc):
        deadline_of(headers_of({"method": "POST", "headers": headers}))


def should_rate_limit(data: bytes) -> None:
    """Any RateLimitRequest is decided or refused; the response, written by hand, is what protobuf reads and writes."""
    choices = Choices(data)
    body = _message(choices, _rate_limit_request)
    code, response = world().call(SHOULD_RATE_LIMIT, frame(body), gateway=choices.flag())
    if code:
        return
    message = _same(response, RateLimitResponse)
    assert message.overall_code in {RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT}
    asked = RateLimitRequest.FromString(body).descriptors if message.statuses else []
    assert len(message.statuses) == len(asked)
    denied = any(status.code == RateLimitResponse.OVER_LIMIT for status in message.statuses)
    assert not message.statuses or denied == (message.overall_code == RateLimitResponse.OVER_LIMIT)


def authorize(data: bytes) -> None:
    """Any CheckRequest is decided or refused; only one with a good key is allowed."""
    choices = Choices(data)
    body = _message(choices, _check_request)
    code, response = world().call(AUTHORIZE, frame(body))
    if code:
        return
    message = _same(response, CheckResponse)
    if not message.status.code:
        assert str(KEY).encode() in body
        assert message.HasField("ok_response")
    else:
        assert 400 <= message.denied_response.status.code < 600


def check_limit(data: bytes) -> None:
    """Any request of ours is decided or refused, and a batch as its checks one by one are read."""
    choices = Choices(data)
    if choices.flag():
        code, response = world().call(CHECK, frame(_message(choices, _check)))
        if not code:
            _same(response, CheckLimitResponse)
        return
    body = _message(choices, _batch)
    code, response = world().call(BATCH, frame(body))
    if not code:
        answers = _same(response, BatchCheckLimitResponse)
        assert len(answers.results) == len(BatchCheckLimitRequest.FromString(body).checks)
    else:
        with suppress(DecodeError):
            assert code != 12 or len(BatchCheckLimitRequest.FromString(body).checks) not in range(1, 257)


def settle(data: bytes) -> None:
    """Of a reservation, whatever becomes of its id on the way: one that no server made takes and returns nothing."""
    choices = Choices(data)
    world().clock.time_us += MICRO // 2  # so that few are open at a time
    reserving = CheckLimitRequest(api_key=str(KEY), resource=choices.text(["orders", "other"]), cost=choices.byte() % 4)
    reserving.hold.seconds = 1 + choices.byte() % 3
    code, response = world().call(CHECK, frame(reserving.SerializeToString()))
    made = "" if code else CheckLimitResponse.FromString(response).reservation_id
    at, added = choices.byte() * 4, choices.text([""])
    reservation_id = made[:at] + added + made[at + choices.byte() % 3 :]
    for _ in range(1 + choices.byte() % 3):
        if choices.flag():
            extending = ExtendHoldRequest(reservation_id=reservation_id)
            extending.hold.seconds = choices.number() % 5_000
            code, response = world().call(EXTEND, frame(extending.SerializeToString()))
            assert code or _same(response, ExtendHoldResponse)
        else:
            settling = SettleLimitRequest(reservation_id=reservation_id)
            if choices.flag():
                settling.actual_cost = choices.number() % 2**64
            code, response = world().call(SETTLE, frame(settling.SerializeToString()))
            assert code or _same(response, SettleLimitResponse) is not None
        assert code in {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND}
        assert code or reservation_id == made


def _too_large(body: bytes, code: int) -> bool:
    """Whether this refusal is that of a message over the bound."""
    return code == Code.RESOURCE_EXHAUSTED and len(body) > MAX_MESSAGE


def grant(data: bytes) -> None:
    """Whatever is asked for and returned, no more is granted than is wanted, and only to gateways."""
    choices = Choices(data)
    world().clock.time_us += MICRO // 2
    world().forget_grants()  # the ids are few
    for _ in range(1 + choices.byte() % 3):
        is_gateway = choices.byte() < 250
        body = _message(choices, _grant)
        code, response = world().call(GRANT, frame(body), gateway=is_gateway)
        assert code in {Code.OK if is_gateway else 7, Code.INVALID_ARGUMENT} or _too_large(body, code)
        if not code:
            message, request = _same(response, GrantResponse), GrantRequest.FromString(body)
            assert message.granted <= request.wants
            assert bool(message.granted) == message.HasField("ttl") == message.decision.allowed
            assert message.returns_made


def stream_grants(data: bytes) -> None:
    """A message of a stream, of any requests: as many results, each as of a single one; or it ends the stream."""
    choices = Choices(data)
    world().clock.time_us += MICRO // 2
    world().forget_grants()
    is_gateway = choices.byte() < 250
    body = _message(choices, _stream_grant)
    code, response = world().call(STREAM_GRANTS, frame(body), gateway=is_gateway)
    assert code in {Code.OK if is_gateway else 7, Code.INVALID_ARGUMENT} or _too_large(body, code)
    if not code:
        message, requests = _same(response, StreamGrantResponse), StreamGrantRequest.FromString(body).requests
        for result, request in zip(message.results, requests, strict=True):
            assert result.response.granted <= request.wants
            assert result.WhichOneof("result") == "response" or result.error.code == Code.INVALID_ARGUMENT


def report(data: bytes) -> None:
    """Whatever is reported, a stream is assigned shares that can be read, or ends as Envoy's own bytes never end it."""
    choices = Choices(data)
    messages = [_message(choices, _reports) for _ in range(1 + choices.byte() % 3)]
    world().clock.time_us += choices.pick([MICRO // 4, MICRO, 20 * MICRO])
    code, responses = world().run(_report(messages))
    assert code in {Code.OK, Code.INVALID_ARGUMENT}
    for response in responses:
        for action in _same(response, RateLimitQuotaResponse).bucket_action:
            strategy = action.quota_assignment_action.rate_limit_strategy
            if strategy.HasField("token_bucket"):
                assert strategy.token_bucket.max_tokens > 0
                assert strategy.token_bucket.fill_interval.seconds > 0
            assert bool(action.bucket_id.bucket)


async def _report(messages: list[bytes]) -> tuple[Code, list[bytes]]:
    """Report on a stream of its own. Returns what it ends with, and what was assigned."""
    allocator, code = world().allocator, Code.OK
    responses: list[bytes] = []
    with world().quotas.open(Caller("edge", Role.GATEWAY)) as stream:
        try:
            await stream.report(messages, asyncio.get_running_loop().create_future())
        except ServiceError as error:
            code = error.code
        while await allocator.sharing.visit():
            pass
        await allocator.tick()
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                responses.append(await stream.responses())
    await allocator.finish()
    return code, responses


def _same(data: bytes, message: type[Message]) -> Message:
    """What protobuf reads of bytes that were written by hand: nothing is unknown, and it writes as many bytes."""
    read = message.FromString(data)
    written = read.SerializeToString()
    assert message.FromString(written) == read
    assert len(written) <= len(data)
    return read


def _message(choices: Choices, structured: object) -> bytes:
    """A message out of choices, with some of its bytes changed or not; or bytes as they come."""
    kind = choices.byte() % 4
    if kind == 0:
        return choices.rest()
    body: bytes = structured(choices).SerializeToString()
    if kind == 1 and body:
        at = choices.byte() % len(body)
        body = body[:at] + choices.blob(choices.byte() % 4) + body[at + choices.byte() % 4 :]
    return body * (choices.byte() % 3 + 1) if kind == 2 else body


def _is_large(choices: Choices) -> bool:
    return choices.byte() == _LARGE and choices.byte() == _LARGE


def _rate_limit_request(choices: Choices) -> RateLimitRequest:
    request = RateLimitRequest(
        domain=choices.text([DOMAIN, DOMAIN, "other", HELD]), hits_addend=choices.number() % 2**32
    )
    for _ in range(choices.pick([1, 2, 3, 0, 33, 129, 4, 8])):
        descriptor = request.descriptors.add()
        for _ in range(choices.pick([1, 2, 3, 0, 17, 1, 1, 1])):
            descriptor.entries.add(key=choices.text(_ENTRY_KEYS), value=choices.text(_VALUES))
        if choices.flag():
            descriptor.hits_addend.value = choices.number() % 2**64
        descriptor.is_negative_hits = choices.byte() > 200
        if choices.byte() > 200:
            descriptor.limit.requests_per_unit = choices.number() % 2**32
            descriptor.limit.unit = choices.byte() % 10
    return request


def _check_request(choices: Choices) -> CheckRequest:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method = choices.text(["GET", "POST", ""])
    http.path = choices.text(["/orders/1", "/orders?x=%2f", "/%6frders/%e2%80%ae", "*"])
    header, key = choices.text(["authorization", "content-type", "x-api-key"]), choices.text(_KEYS)
    if choices.flag():
        http.headers[header] = key
        http.headers["content-type"] = choices.text(["application/json", "text/html", "application/grpc"])
    else:
        for _ in range(choices.byte() % 4):
            added = http.header_map.headers.add(key=header, value=key)
            if choices.flag():
                added.raw_value = choices.blob(choices.byte() % 64)
    for name in ("resource", "cost", "other"):
        if choices.byte() > 200:
            request.attributes.context_extensions[name] = choices.text(["0", "1", "9007199254", "orders"])
    return request


def _check(choices: Choices) -> CheckLimitRequest:
    request = CheckLimitRequest(api_key=choices.text(_KEYS), resource=choices.text(["orders", "GET /orders"]))
    if choices.flag():
        request.cost = choices.number() % 2**64
    if choices.flag():
        request.request_id = choices.text(["r-1", "r-2"])
    if choices.byte() > 200:
        request.key_id = choices.text([KEY.key_id])
    if choices.byte() > 200:
        request.hold.seconds = choices.number() % 5_000
        request.hold.nanos = choices.number() % 10**9
    return request


def _grant(choices: Choices) -> GrantRequest:
    request = GrantRequest(grant_id=choices.text(_GRANT_IDS), api_key=choices.text(_KEYS))
    request.resource = choices.text(["other", "orders", "GET /orders"])
    request.wants = choices.pick([1, 2, 5, 0, 1_000_000, 1_000_001, 2**32 - 1])
    if choices.flag():
        request.cost = choices.number() % 2**64
    for _ in range(choices.pick([0, 1, 2, 1, 65])):
        returned = request.returns.add(grant_id=choices.text(_GRANT_IDS), unused=choices.number() % 2**64)
        for _ in range(choices.pick([0, 1, 2, 257])):
            spent = returned.spent.add(resource=choices.text(["other", "orders"]), limit=choices.text(["", "burst"]))
            spent.allowed, spent.denied = choices.number() % 2**33, choices.byte()
            spent.cost = choices.number() % 2**40 if choices.flag() else 0
    return request


def _stream_grant(choices: Choices) -> StreamGrantRequest:
    count = choices.pick([64, 65]) if _is_large(choices) else choices.pick([1, 2, 3, 0, 5, 8])
    requests = [_grant(choices) for _ in range(min(count, 4))]
    return StreamGrantRequest(requests=(requests * 17)[:count])


def _reports(choices: Choices) -> RateLimitQuotaUsageReports:
    reports = RateLimitQuotaUsageReports(domain=choices.text([DOMAIN, DOMAIN, "", "other"]))
    for _ in range(choices.pick([1, 2, 3, 0, 40])):
        usage = reports.bucket_quota_usages.add()
        for _ in range(choices.pick([1, 2, 3, 0, 17])):
            usage.bucket_id.bucket[choices.text(_ENTRY_KEYS)] = choices.text(_VALUES)
        usage.num_requests_allowed = choices.number() % 2**64
        usage.num_requests_denied = choices.byte()
        usage.time_elapsed.seconds = choices.byte() % 7
    return reports


def _batch(choices: Choices) -> BatchCheckLimitRequest:
    count = choices.pick([256, 257]) if _is_large(choices) else choices.pick([1, 2, 3, 0, 5, 8])
    checks = [_check(choices) for _ in range(min(count, 8))]
    return BatchCheckLimitRequest(checks=(checks * 33)[:count])


_SEEDS = [bytes([kind, *[n] * 12]) for kind in (0, 1, 2, 3) for n in (0, 1, 2, 3, 129, 201, 255)]
_FULL = bytes([0, 3, _LARGE, _LARGE])
_RAW = RateLimitRequest(domain=DOMAIN, descriptors=[{"entries": [{"key": "a", "value": "1"}]}]).SerializeToString()

TARGETS = [
    Target("framing", framing, [b"\0\0" + frame(b"abc"), b"\2\2\1\4" + frame(b"a") * 3, b"\0\0\1\0\0\0\1x"], 2_048),
    Target("should_rate_limit", should_rate_limit, [*_SEEDS, b"\0" + _RAW], 1_024),
    Target("authorize", authorize, _SEEDS, 1_024),
    Target("settle", settle, [bytes([n, 1, 1, at, 0, 0, n, n, 1, 5]) for n in (0, 1, 2) for at in (0, 3, 255)], 256),
    Target("grant", grant, [bytes([n, 0, 3, n, 0, 0, m, 0, m, *range(m * 9)]) for n in (0, 1) for m in (0, 1, 2)], 512),
    Target(
        "stream_grants",
        stream_grants,
        [bytes([0, n, m, *range(m * 9)]) for n in (0, 1) for m in (0, 1, 4)] + [_FULL],
        512,
    ),
    Target("report", report, _SEEDS, 1_024),
    Target("check_limit", check_limit, [flag + seed for flag in (b"\0", b"\1") for seed in _SEEDS] + [_FULL], 1_024),
]
