"""What stock clients see of single calls and batches."""

import time

import pytest
from google.rpc import error_details_pb2

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service.management.tokens import Role
from transport.conformance.call import CHECK, CallSpec, batch, check
from transport.conformance.clients import Client

CANCELLED, INVALID, DEADLINE, DENIED, EXHAUSTED, UNIMPLEMENTED, UNAUTHENTICATED = 1, 3, 4, 7, 8, 12, 16
Reason = pb2.CheckLimitResponse.Reason
Key = tuple[str, str]


def left(client: Client, key: Key) -> int:
    """Tokens that the key's bucket has."""
    return client.call(check(api_key=key[1], cost=0)).decision().limits[0].remaining


def test_an_allowed_call(client: Client, key: Key) -> None:
    """Everything of the decision arrives."""
    decision = client.call(check(api_key=key[1], resource="orders.create", cost=3)).decision()
    assert (decision.allowed, decision.reason, decision.key_id) == (True, Reason.WITHIN_LIMIT, key[0])
    assert (decision.plan, decision.limit, decision.remaining) == ("once", "burst", 17)


def test_a_denial_is_data(client: Client, key: Key) -> None:
    """A call over the limit gets status OK and a retry_after."""
    client.call(check(api_key=key[1], cost=20))
    decision = client.call(check(api_key=key[1])).decision()
    assert (decision.allowed, decision.reason) == (False, Reason.OVER_LIMIT)
    assert 86_000 < decision.retry_after.seconds <= 86_400


def test_a_bad_field(client: Client, key: Key) -> None:
    """INVALID_ARGUMENT with ErrorInfo and the field, whose message survives percent-encoding, and nothing charged."""
    outcome = client.call(check(api_key=key[1], resource="50% é\n"))
    assert (outcome.code, outcome.reason, outcome.info.domain) == (INVALID, "INVALID_FIELD", "ratelimit.v1")
    assert [v.field for v in outcome.detail(error_details_pb2.BadRequest()).field_violations] == ["resource"]
    assert "control character" in outcome.message
    assert left(client, key) == 20


def test_an_invalid_message(client: Client) -> None:
    """INVALID_ARGUMENT that names the message."""
    outcome = client.call(CallSpec(CHECK, [b"\xff\xff\xff"]))
    assert (outcome.code, outcome.reason) == (INVALID, "INVALID_FIELD")
    assert "ratelimit.v1.CheckLimitRequest" in outcome.message


def test_strings_that_are_not_utf8(client: Client) -> None:
    """INVALID_ARGUMENT, as for any invalid message."""
    assert client.call(CallSpec(CHECK, [b"\x1a\x02\xc3\x28"])).code == INVALID


def test_a_message_of_64_kib_is_accepted(client: Client, key: Key) -> None:
    """The bound itself is allowed: unknown fields are skipped and the call is decided."""
    request = check(api_key=key[1]).messages[0]
    padding = 65_536 - len(request) - 5
    padded = (
        request
        + b"\xfa\x01"
        + bytes([padding & 0x7F | 0x80, padding >> 7 & 0x7F | 0x80, padding >> 14])
        + b"x" * padding
    )
    assert len(padded) == 65_536
    assert client.call(CallSpec(CHECK, [padded])).decision().allowed


def test_a_larger_message_is_refused(client: Client) -> None:
    """RESOURCE_EXHAUSTED with the size and the bound."""
    outcome = client.call(CallSpec(CHECK, [b"x" * 65_537]))
    assert (outcome.code, outcome.reason) == (EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert dict(outcome.info.metadata) == {"size": "65537", "limit": "65536"}


@pytest.mark.parametrize("service", ["ratelimit.v1.RateLimitService", "ratelimit.v1.KeyAdminService", "no.Service"])
def test_an_unknown_method(client: Client, service: str) -> None:
    """UNIMPLEMENTED with the method's name, wherever it is unknown."""
    outcome = client.call(CallSpec(f"/{service}/Nothing", [b""]))
    assert (outcome.code, outcome.reason) == (UNIMPLEMENTED, "NOT_SERVED")
    assert outcome.info.metadata["method"] == f"/{service}/Nothing"


def test_a_compressed_message_is_refused(client: Client, key: Key) -> None:
    """UNIMPLEMENTED, and nothing is charged."""
    spec = check(api_key=key[1], resource="r" * 256)
    spec.gzip = True
    assert client.call(spec).code == UNIMPLEMENTED
    assert left(client, key) == 20


def test_a_deadline_that_is_too_short(client: Client, key: Key) -> None:
    """DEADLINE_EXCEEDED, whichever side notices first, and within the time.

    Clients round it up to 1 ms, within which a quick server decides one call. So it is asked for many, several times.
    """
    spec = batch(*[{"api_key": key[1]}] * 256)
    spec.timeout = 0.000_001
    for _ in range(20):
        began = time.monotonic()
        code = client.call(spec).code
        assert time.monotonic() - began < 1
        if code == DEADLINE:
            return
        assert code == 0
    pytest.fail("20 answers within a deadline of 1 us")


def test_an_unknown_token(client: Client, key: Key) -> None:
    """An invalid token is refused, though none is needed."""
    spec = check(api_key=key[1])
    spec.metadata = {"authorization": "Bearer rlt_unknown_nothing"}
    outcome = client.call(spec)
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "TOKEN_INVALID")


def test_key_id_is_for_gateways(client: Client, server: Server, key: Key) -> None:
    """PERMISSION_DENIED with both roles for any other caller, a decision for a gateway."""
    spec = check(key_id=key[0])
    outcome = client.call(spec)
    assert (outcome.code, outcome.reason) == (DENIED, "ROLE_INSUFFICIENT")
    assert dict(outcome.info.metadata) == {"role": "none", "needed": "gateway"}
    spec.metadata = {"authorization": f"Bearer {server.tokens[Role.GATEWAY]}"}
    assert client.call(spec).decision().allowed


def test_an_unknown_field_and_metadata_are_ignored(client: Client, key: Key) -> None:
    """Newer clients than the server are served."""
    spec = check(api_key=key[1])
    spec.messages[0] += b"\xfa\x01\x01x"
    spec.metadata = {"x-anything": "at all"}
    assert client.call(spec).decision().allowed


def test_a_batch(client: Client, key: Key) -> None:
    """Answers come in order; an invalid item gets an error of its own, and takes nothing."""
    fields: list[dict[str, object]] = [{"api_key": key[1], "cost": 5}] * 3 + [{"api_key": ""}]
    fields += [{"api_key": key[1], "cost": 6}, {"api_key": key[1], "cost": 5}, {"key_id": key[0]}]
    results = client.call(batch(*fields)).batch_results()
    assert [result.WhichOneof("result") for result in results] == ["decision"] * 3 + ["error"] + ["decision"] * 2 + [
        "error"
    ]
    assert [result.decision.allowed for result in results] == [True, True, True, False, False, True, False]
    assert (results[3].error.code, results[3].error.field) == (INVALID, "api_key")
    assert results[6].error.code == DENIED


@pytest.mark.parametrize("size", [0, 257])
def test_a_batch_of_a_wrong_size(client: Client, key: Key, size: int) -> None:
    """INVALID_ARGUMENT on `checks`, and nothing is charged."""
    outcome = client.call(batch(*[{"api_key": key[1]}] * size))
    assert outcome.code == INVALID
    assert [v.field for v in outcome.detail(error_details_pb2.BadRequest()).field_violations] == ["checks"]
    assert left(client, key) == 20


def test_request_id_on_any_method(client: Client, key: Key) -> None:
    """A repeated request_id is charged once, alone, within a batch and across both."""
    fields: dict[str, object] = {"api_key": key[1], "cost": 4, "request_id": "the-same"}
    first = client.call(check(**fields)).decision()
    results = client.call(batch(fields, fields)).batch_results()
    assert [result.decision.remaining for result in results] == [first.remaining] * 2 == [16, 16]
    assert left(client, key) == 16
