"""What ShouldRateLimit denies for its form: OVER_LIMIT without statuses, and nothing is charged.

An error would let it pass where Envoy fails open, and clients choose what is in it.
"""

import json
from typing import Any

import grpc
import pytest

from api.envoy.wire import (
    OK,
    OVER_LIMIT,
    SHOULD_RATE_LIMIT,
    Refused,
    ask,
    descriptor,
    limit_headers,
    put_rules,
    quota,
    send,
)
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.management.tokens import Role

A = ("a", "1")
MANY = [(f"k{n}", "v") for n in range(17)]
MAX_HITS = 9_007_199_254


def assert_denied(response: RateLimitResponse) -> None:
    """It is denied without any status, with a body for the client."""
    assert (response.overall_code, len(response.statuses)) == (OVER_LIMIT, 0)
    assert json.loads(response.raw_body)["reason"] == "REQUEST_OUT_OF_BOUNDS"
    assert limit_headers(response) == {"content-type": "application/problem+json"}


@pytest.mark.parametrize(
    ("descriptors", "fields"),
    [
        ([descriptor(A)], {"domain": ""}),
        ([descriptor(A)], {"domain": "d" * 257}),
        ([], {}),
        ([descriptor(A)] * 129, {}),
        ([descriptor(A), descriptor()], {}),
        ([descriptor(*MANY)], {}),
        ([descriptor(("k" * 257, "v"))], {}),
        ([descriptor(A, ("", "v"))], {}),
        ([descriptor(A), descriptor(A, limit={"requests_per_unit": 5})], {}),
        ([descriptor(A, limit={"requests_per_unit": 5, "unit": 7})], {}),
        ([descriptor(A, hits_addend={"value": MAX_HITS + 1})], {}),
        ([descriptor(A, hits_addend={"value": 2**64 - 1})], {}),
        ([descriptor(A, hits_addend={"value": 2**64 - 1}, is_negative_hits=True)], {}),
        ([descriptor(("api_key", "x"), ("other", "y"))], {}),
        ([descriptor(("api_key", "x"), ("api_key", "y"))], {}),
        ([descriptor(("api_key", "x"), limit={"requests_per_unit": 1, "unit": 1})], {}),
        ([descriptor(("a", "x" * 65_536))], {}),
        ([descriptor(("a", "x" * 200_000))], {}),
        ([descriptor()] * 30_000, {}),
        ([descriptor(*[("", "")] * 30_000)], {}),
        ([descriptor(("a", "x" * 500))] * 129, {}),
    ],
)
def test_out_of_bounds(server: Server, descriptors: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    """It is denied, also for a gateway, which alone may send some of it."""
    assert_denied(ask(server, *descriptors, token=server.tokens[Role.GATEWAY], **fields))


def test_nothing_is_charged(server: Server) -> None:
    """A request of which one descriptor is malformed charges none of the others."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]})
    assert_denied(ask(server, descriptor(A), descriptor(("", "v")), domain=domain))
    assert ask(server, descriptor(A), domain=domain).statuses[0].limit_remaining == 4


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x12\xff\xff\xff\xff\x0f"])
def test_a_malformed_message(server: Server, data: bytes) -> None:
    """Bytes that are no request are denied, and a domain that is no UTF-8."""
    assert_denied(RateLimitResponse.FromString(send(server, SHOULD_RATE_LIMIT, data)))


def test_128_descriptors(server: Server) -> None:
    """As many are served, each with its status, and charged together or not at all."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]}, {"key": "b", "limits": [quota(200)]})
    many = [descriptor(("a", str(number))) for number in range(127)]
    for remaining in (4, 3):
        response = ask(server, *many, descriptor(("b", "1")), domain=domain)
        assert [status.limit_remaining for status in response.statuses[:127]] == [remaining] * 127
    ask(server, descriptor(("a", "7"), hits_addend={"value": 3}), domain=domain)
    response = ask(server, *many, descriptor(("b", "1")), domain=domain)
    assert [status.code == OVER_LIMIT for status in response.statuses] == [n == 7 for n in range(128)]
    response = ask(server, *[descriptor(("b", "1"))] * 128, domain=domain)
    assert [status.limit_remaining for status in response.statuses] == [198 - 128] * 128


def test_the_largest_hits(server: Server) -> None:
    """Hits up to the largest limit are decided, and to the token."""
    domain = put_rules(server, {"key": "a", "limits": [quota(MAX_HITS)]}, {"key": "b", "limits": [quota(MAX_HITS - 1)]})

    def take(key: str, hits: int) -> int:
        return ask(server, descriptor((key, "1"), hits_addend={"value": hits}), domain=domain).overall_code

    assert [take("b", MAX_HITS), take("b", MAX_HITS - 1), take("b", 1)] == [OVER_LIMIT, OK, OVER_LIMIT]
    assert [take("a", MAX_HITS - 1), take("a", 2), take("a", 1), take("a", 1)] == [OK, OVER_LIMIT, OK, OVER_LIMIT]
    assert ask(server, descriptor(("b", "2")), domain=domain, hits_addend=2**32 - 1).overall_code == OK


def test_no_credential_is_no_matter_of_form(server: Server) -> None:
    """A wrong token is an error as ever: it is the gateway's, not the client's."""
    with pytest.raises(Refused) as caught:
        ask(server, descriptor(A), token="wrong")
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED


def test_a_denial_contains_no_key(server: Server) -> None:
    """Neither the denial nor the log contains the secret that was sent."""
    _, key = server.key("once")
    response = ask(server, descriptor(("api_key", key), ("other", "y")))
    assert_denied(response)
    assert key.encode() not in response.SerializeToString()
    server.wait_for_output("too large or malformed")
    assert key not in server.output
