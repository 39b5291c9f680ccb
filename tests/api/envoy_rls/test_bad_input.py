"""What ShouldRateLimit rejects, with the field named and nothing charged."""

import grpc
import pytest

from api.envoy.wire import SHOULD_RATE_LIMIT, Refused, ask, descriptor, put_rules, quota, send
from fixtures.served import Server

A = ("a", "1")
MANY = [(f"k{n}", "v") for n in range(17)]


def invalid_fields(server: Server, *descriptors: dict[str, object], **fields: object) -> list[str]:
    """The invalid fields of a request that is rejected."""
    with pytest.raises(Refused) as caught:
        ask(server, *descriptors, **fields)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason == "INVALID_FIELD"
    return caught.value.fields


@pytest.mark.parametrize(
    ("descriptors", "fields", "field"),
    [
        ([descriptor(A)], {"domain": ""}, "domain"),
        ([descriptor(A)], {"domain": "d" * 257}, "domain"),
        ([], {}, "descriptors"),
        ([descriptor(A)] * 33, {}, "descriptors"),
        ([descriptor(A), descriptor()], {}, "descriptors[1].entries"),
        ([descriptor(*MANY)], {}, "descriptors[0].entries"),
        ([descriptor(("k" * 257, "v"))], {}, "descriptors[0].entries[0].key"),
        ([descriptor(A, ("", "v"))], {}, "descriptors[0].entries[1].key"),
        ([descriptor(A), descriptor(A, limit={"requests_per_unit": 5})], {}, "descriptors[1].limit.unit"),
        ([descriptor(A, limit={"requests_per_unit": 5, "unit": 7})], {}, "descriptors[0].limit.unit"),
        ([descriptor(A, hits_addend={"value": 1_000_001})], {}, "descriptors[0].hits_addend"),
        ([descriptor(A, hits_addend={"value": 2**64 - 1})], {}, "descriptors[0].hits_addend"),
        ([descriptor(A)], {"hits_addend": 2**32 - 1}, "descriptors[0].hits_addend"),
        ([descriptor(("api_key", "x"), ("other", "y"))], {}, "descriptors[0].entries[1].key"),
        ([descriptor(("api_key", "x"), ("api_key", "y"))], {}, "descriptors[0].entries[1].key"),
        ([descriptor(("api_key", "x"), limit={"requests_per_unit": 1, "unit": 1})], {}, "descriptors[0].limit"),
    ],
)
def test_bad_input(server: Server, descriptors: list[dict[str, object]], fields: dict[str, object], field: str) -> None:
    """INVALID_ARGUMENT, with the path of the invalid field."""
    assert invalid_fields(server, *descriptors, **fields) == [field]


def test_nothing_is_charged(server: Server) -> None:
    """A request of which one descriptor is malformed charges none of the others."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]})
    assert invalid_fields(server, descriptor(A), descriptor(("", "v")), domain=domain) == [
        "descriptors[1].entries[0].key"
    ]
    assert ask(server, descriptor(A), domain=domain).statuses[0].limit_remaining == 4


def test_a_malformed_message(server: Server) -> None:
    """Bytes that are no request are rejected as such."""
    with pytest.raises(Refused) as caught:
        send(server, SHOULD_RATE_LIMIT, b"\xff\xff\xff")
    assert (caught.value.code, caught.value.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["message"])


def test_an_error_contains_no_key(server: Server) -> None:
    """An error does not contain the secret that was sent."""
    _, key = server.key("once")
    with pytest.raises(Refused) as caught:
        ask(server, descriptor(("api_key", key), ("other", "y")))
    assert key not in str(caught.value)
