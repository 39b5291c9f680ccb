"""ShouldRateLimit on the wire, as in Envoy's protocol."""

import json

import pytest

from api.envoy.wire import (
    OK,
    OVER_LIMIT,
    SHOULD_RATE_LIMIT,
    ask,
    bucket,
    descriptor,
    limit_headers,
    put_rules,
    quota,
    send,
)
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.management.tokens import Role

Unit = RateLimitResponse.RateLimit
UINT32_MAX = 2**32 - 1
A, B, C = ("a", "1"), ("b", "1"), ("c", "1")
PEEK = {"hits_addend": {"value": 0}}


def remaining(server: Server, domain: str, *entries: tuple[str, str]) -> int:
    """What remains of a descriptor's limit."""
    return ask(server, descriptor(*entries, **PEEK), domain=domain).statuses[0].limit_remaining


def test_statuses_are_one_for_each_descriptor_in_order(server: Server) -> None:
    """Every descriptor has a status at its place, whether a limit, a key or nothing is behind it, allowed or denied."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]}, {"key": "b", "limits": [quota(1)]})
    _, key = server.key("once")
    asked = [
        descriptor(B),
        descriptor(("no", "rule")),
        descriptor(A),
        descriptor(("api_key", key)),
        descriptor(("api_key", "garbage")),
    ]
    response = ask(server, *asked[:4], domain=domain)
    assert response.overall_code == OK
    assert [status.code for status in response.statuses] == [OK] * 4
    assert [status.current_limit.requests_per_unit for status in response.statuses] == [1, 0, 5, 20]
    response = ask(server, *asked, domain=domain)
    assert response.overall_code == OVER_LIMIT
    assert [status.code for status in response.statuses] == [OVER_LIMIT, OK, OK, OK, OVER_LIMIT]


def test_no_code_is_ever_unknown(server: Server) -> None:
    """Neither the overall code nor that of a status is 0, which release builds of Envoy take for OK."""
    domain = put_rules(server, {"key": "a", "limits": [{"blocked": {}}]}, {"key": "b", "limits": [{"unlimited": {}}]})
    for descriptors in ([A], [B], [C], [A, B, C], [("api_key", "")], [("api_key", "x")]):
        response = ask(server, *map(descriptor, descriptors), domain=domain)
        assert response.overall_code in {OK, OVER_LIMIT}
        assert all(status.code in {OK, OVER_LIMIT} for status in response.statuses)


def test_hits_of_the_request(server: Server) -> None:
    """The request's hits_addend is for each descriptor that has none; 0 means 1."""
    domain = put_rules(server, {"key": "a", "limits": [quota(100)]}, {"key": "b", "limits": [quota(100)]})
    statuses = ask(server, descriptor(A), descriptor(B), domain=domain, hits_addend=0).statuses
    assert [status.limit_remaining for status in statuses] == [99, 99]
    statuses = ask(
        server, descriptor(A), descriptor(B, hits_addend={"value": 1}), domain=domain, hits_addend=7
    ).statuses
    assert [status.limit_remaining for status in statuses] == [92, 98]


def test_hits_of_a_descriptor(server: Server) -> None:
    """A descriptor's own hits_addend wins over the request's; there 0 only peeks, even at an exhausted limit."""
    domain = put_rules(server, {"key": "a", "limits": [quota(10)]})
    assert (
        ask(server, descriptor(A, hits_addend={"value": 4}), domain=domain, hits_addend=2).statuses[0].limit_remaining
        == 6
    )
    assert ask(server, descriptor(A, **PEEK), domain=domain, hits_addend=2).statuses[0].limit_remaining == 6
    ask(server, descriptor(A, hits_addend={"value": 6}), domain=domain)
    assert ask(server, descriptor(A), domain=domain).overall_code == OVER_LIMIT
    assert ask(server, descriptor(A, **PEEK), domain=domain).overall_code == OK


def test_negative_hits_refund(server: Server) -> None:
    """A gateway refunds tokens by is_negative_hits, never above the full limit, and at one that is used up too."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]})
    ask(server, descriptor(A, hits_addend={"value": 5}), domain=domain)

    def refund(hits: int = 0, **fields: object) -> RateLimitResponse:
        of_its_own = {"hits_addend": {"value": hits}} if hits else {}
        asked = descriptor(A, is_negative_hits=True, **of_its_own)
        return ask(server, asked, domain=domain, token=server.tokens[Role.GATEWAY], **fields)

    response = refund(2)
    assert (response.overall_code, response.statuses[0].limit_remaining) == (OK, 2)
    assert refund().statuses[0].limit_remaining == 3
    assert refund(hits_addend=9).statuses[0].limit_remaining == 5


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN])
def test_refunds_of_others_are_peeks(server: Server, role: Role | None) -> None:
    """Whoever is no gateway gets no token back, by no bytes that a gateway has sent before either, and no error."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]})
    ask(server, descriptor(A, hits_addend={"value": 5}), domain=domain)
    refund = descriptor(A, hits_addend={"value": 1}, is_negative_hits=True)
    gateway, other = server.tokens[Role.GATEWAY], role and server.tokens[role]
    for token, left in ((other, 0), (gateway, 1), (other, 1), (gateway, 2), (gateway, 3), (other, 3)):
        response = ask(server, refund, domain=domain, token=token)
        assert (response.overall_code, response.statuses[0].limit_remaining) == (OK, left)


def test_nothing_matches(server: Server) -> None:
    """A descriptor that no rule is for is OK without a limit, without what remains and without a header."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5)]})
    for asked, where in ((descriptor(B), domain), (descriptor(A), "no such domain")):
        response = ask(server, asked, domain=where)
        assert response == RateLimitResponse(overall_code=OK, statuses=[{"code": OK}])


def test_unlimited(server: Server) -> None:
    """Unlimited has the largest number remaining, and no limit to report."""
    domain = put_rules(server, {"key": "a", "limits": [{"unlimited": {}}]})
    response = ask(server, descriptor(A), domain=domain)
    assert response == RateLimitResponse(overall_code=OK, statuses=[{"code": OK, "limit_remaining": UINT32_MAX}])


def test_one_denied_descriptor_charges_no_other(server: Server) -> None:
    """Of three descriptors one is denied: the others have as much left as before, however often it is tried."""
    domain = put_rules(server, *({"key": key, "limits": [quota(n)]} for key, n in (("a", 5), ("b", 1), ("c", 9))))
    ask(server, descriptor(B), domain=domain)
    for _ in range(3):
        response = ask(server, descriptor(A), descriptor(B), descriptor(C), domain=domain)
        assert response.overall_code == OVER_LIMIT
        assert [status.limit_remaining for status in response.statuses] == [5, 0, 9]
    assert [remaining(server, domain, entry) for entry in (A, B, C)] == [5, 0, 9]


def test_over_the_limit(server: Server) -> None:
    """A denied descriptor has nothing remaining, though there may be some, and reports until when."""
    domain = put_rules(server, {"key": "a", "limits": [quota(5, name="five a day")]})
    status = ask(server, descriptor(A, hits_addend={"value": 4}), domain=domain).statuses[0]
    assert (status.limit_remaining, status.current_limit.unit) == (1, Unit.DAY)
    status = ask(server, descriptor(A, hits_addend={"value": 2}), domain=domain).statuses[0]
    assert (status.code, status.limit_remaining) == (OVER_LIMIT, 0)
    assert 0 < status.duration_until_reset.seconds <= 86_400
    assert (status.current_limit.name, status.current_limit.requests_per_unit) == ("five a day", 5)


def test_several_limits_when_denied(server: Server) -> None:
    """Of several limits behind one descriptor a denial reports the one with the longest reset of those that deny."""
    fast, slow = bucket(2, 1, 3_600, name="fast"), bucket(2, 1, name="slow")  # two hours, two days
    domain = put_rules(server, {"key": "a", "limits": [fast, slow, quota(9, "YEAR", name="wide")]})
    ask(server, descriptor(A, hits_addend={"value": 2}), domain=domain)
    status = ask(server, descriptor(A), domain=domain).statuses[0]
    assert (status.code, status.current_limit.name) == (OVER_LIMIT, "slow")


def test_several_limits_when_allowed(server: Server) -> None:
    """Of several limits behind one descriptor the one with the smallest share remaining is reported."""
    domain = put_rules(server, {"key": "a", "limits": [quota(1_000, "MONTH", name="month"), quota(10, name="day")]})
    for taken, (name, remaining) in ((1, ("day", 9)), (4, ("day", 5))):
        status = ask(server, descriptor(A, hits_addend={"value": taken}), domain=domain).statuses[0]
        assert (status.current_limit.name, status.limit_remaining) == (name, remaining)


@pytest.mark.parametrize(
    ("limit", "requests", "unit"),
    [
        (quota(7, "SECOND"), 7, Unit.SECOND),
        (quota(7, "MINUTE"), 7, Unit.MINUTE),
        (quota(7, "HOUR"), 7, Unit.HOUR),
        (quota(7, "WEEK"), 7, Unit.WEEK),
        (quota(7, "MONTH"), 7, Unit.MONTH),
        (quota(7, "YEAR"), 7, Unit.YEAR),
        (quota(9_007_199_254), UINT32_MAX, Unit.DAY),
        (bucket(60, 60, 60), 60, Unit.MINUTE),
        (bucket(60, 30, 30), 60, Unit.MINUTE),
        (bucket(20, 10, 1), 20, Unit.UNKNOWN),
        ({"blocked": {}}, 0, Unit.UNKNOWN),
    ],
)
def test_limits_as_envoy_reports_them(server: Server, limit: dict[str, object], requests: int, unit: int) -> None:
    """A limit is reported with its unit; a bucket with that in which it refills, or none if there is no such unit."""
    domain = put_rules(server, {"key": "a", "limits": [limit]})
    status = ask(server, descriptor(A), domain=domain).statuses[0]
    assert (status.HasField("current_limit"), status.current_limit.unit) == (True, unit)
    assert status.current_limit.requests_per_unit == requests


def test_more_remaining_than_the_protocol_can_hold(server: Server) -> None:
    """It is reported as the largest number, of one descriptor as of two."""
    domain = put_rules(server, {"key": "a", "limits": [quota(9_007_199_254)]})
    for request in ((descriptor(A),), (descriptor(A), descriptor(A))):
        statuses = ask(server, *request, domain=domain).statuses
        assert {status.limit_remaining for status in statuses} == {UINT32_MAX}


def test_the_requests_own_limit(server: Server) -> None:
    """A limit that a gateway sends takes the place of the rules', and one of 0 denies everything."""
    domain = put_rules(server, {"key": "a", "limits": [quota(100, name="hundred")]})
    own = descriptor(A, limit={"requests_per_unit": 2, "unit": "HOUR"})
    gateway = {"domain": domain, "token": server.tokens[Role.GATEWAY]}
    status = ask(server, own, **gateway).statuses[0]
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (2, Unit.HOUR)
    assert [ask(server, own, **gateway).overall_code for _ in range(2)] == [OK, OVER_LIMIT]
    assert remaining(server, domain, A) == 100
    nothing = ask(server, descriptor(C, limit={"unit": "DAY"}), **gateway)
    assert nothing.overall_code == OVER_LIMIT


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN])
def test_overrides_of_others_are_ignored(server: Server, role: Role | None) -> None:
    """Whoever is no gateway is limited by the rules, whatever limit he sends, malformed or beside a key."""
    domain = put_rules(server, {"key": "a", "limits": [quota(100, name="hundred")]})
    gateway, other = server.tokens[Role.GATEWAY], role and server.tokens[role]
    own = descriptor(A, limit={"requests_per_unit": 4_000_000, "unit": "HOUR"})
    for token, name, left in (
        (other, "hundred", 99),
        (gateway, "", 3_999_999),
        (other, "hundred", 98),
        (gateway, "", 3_999_998),
    ):
        status = ask(server, own, domain=domain, token=token).statuses[0]
        assert (status.current_limit.name, status.limit_remaining) == (name, left)
    for limit in ({"unit": "DAY"}, {"requests_per_unit": 5, "unit": 77}):
        assert ask(server, descriptor(A, limit=limit), domain=domain, token=other).overall_code == OK
    _, key = server.key("once")
    asked = descriptor(("api_key", key), limit={"requests_per_unit": 5, "unit": "DAY"})
    assert ask(server, asked, token=other).statuses[0].limit_remaining == 19


def test_headers_and_body(server: Server) -> None:
    """Limits are in the headers of allowed and denied responses; a denial has Retry-After, a problem, and its type."""
    _, key = server.key("once")
    allowed = ask(server, descriptor(("api_key", key)))
    assert limit_headers(allowed) == {
        "ratelimit-policy": '"burst";q=20;w=1728000',
        "ratelimit": '"burst";r=19;t=86400',
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "19",
        "x-ratelimit-reset": "86400",
    }
    assert allowed.raw_body == b""
    ask(server, descriptor(("api_key", key), hits_addend={"value": 19}))
    denied = ask(server, descriptor(("api_key", key)))
    headers = limit_headers(denied)
    assert headers["content-type"] == "application/problem+json"
    assert headers["ratelimit"] == f'"burst";r=0;t={headers["retry-after"]}'
    assert 86_300 < int(headers["retry-after"]) <= 86_400
    assert json.loads(denied.raw_body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": f'Over the limit "burst"; try again in {headers["retry-after"]} s.',
        "reason": "OVER_LIMIT",
        "violated-policies": ["burst"],
    }


def test_the_reset_is_not_after_retry_after(server: Server) -> None:
    """What Envoy makes its own headers of is no later than Retry-After, though a bucket takes longer to fill."""
    domain = put_rules(server, {"key": "a", "limits": [bucket(10, 10, 1_000)]})
    ask(server, descriptor(A, hits_addend={"value": 10}), domain=domain)
    denied = ask(server, descriptor(A), domain=domain)
    until = denied.statuses[0].duration_until_reset
    assert 0 < until.seconds + (until.nanos > 0) <= int(limit_headers(denied)["retry-after"]) <= 100


def test_every_limit_of_a_request_is_reported_once(server: Server) -> None:
    """Limits of all descriptors are in one header, each once, those in shadow left out; the tightest binds."""
    domain = put_rules(
        server,
        {"key": "a", "limits": [quota(100, name="wide"), quota(2, "HOUR", name="dark", mode="SHADOW")]},
        {"key": "b", "limits": [quota(4)]},
    )
    headers = limit_headers(ask(server, descriptor(A), descriptor(B), descriptor(B), domain=domain))
    assert headers["ratelimit-policy"] == '"wide";q=100;w=86400, "day";q=4;w=86400'
    assert headers["ratelimit"].startswith('"wide";r=99;t=')
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("4", "2")


def test_the_tightest_limit_is_the_one_with_the_smallest_share(server: Server) -> None:
    """900 of 100,000 left bind rather than 9 of 10, although they are more tokens."""
    domain = put_rules(server, {"key": "a", "limits": [bucket(10, 1)]}, {"key": "b", "limits": [bucket(100_000, 1)]})
    headers = limit_headers(ask(server, descriptor(A), descriptor(B, hits_addend={"value": 99_100}), domain=domain))
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("100000", "900")


def test_of_limits_that_deny_the_slowest_binds(server: Server) -> None:
    """Of several limits that deny, the headers report the one with the longest wait, as Retry-After does."""
    fast, slow = bucket(1, 1, 3_600, name="fast"), bucket(2, 1, name="slow")
    domain = put_rules(server, {"key": "a", "limits": [fast]}, {"key": "b", "limits": [slow]})
    request = (descriptor(A), descriptor(B, hits_addend={"value": 2}))
    ask(server, *request, domain=domain)
    headers = limit_headers(ask(server, *request, domain=domain))
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("2", "0")
    assert headers["x-ratelimit-reset"] == headers["retry-after"]


def test_the_body_when_several_descriptors_are_denied(server: Server) -> None:
    """It names the limit with the longest wait, and every limit that denies once; to never fit is the longest wait."""
    domain = put_rules(
        server,
        {"key": "a", "limits": [bucket(1, 1, 3_600, name="fast")]},
        {"key": "b", "limits": [bucket(2, 1, name="slow")]},
        {"key": "c", "limits": [quota(100, name="wide")]},
    )
    request = (descriptor(A), descriptor(B), descriptor(B), descriptor(C))
    ask(server, *request, domain=domain)
    body = json.loads(ask(server, *request, domain=domain).raw_body)
    assert body["detail"].startswith('Over the limit "slow"; try again in ')
    assert body["violated-policies"] == ["fast", "slow"]
    too_many = ask(server, descriptor(A), descriptor(B, hits_addend={"value": 3}), domain=domain)
    assert json.loads(too_many.raw_body)["reason"] == "COST_EXCEEDS_CAPACITY"


def test_invalid_keys(server: Server) -> None:
    """A key that is unknown, malformed or revoked is over the limit, and the body has the reason; no wait helps."""
    key_id, key = server.key("once")
    unknown = key[:-1] + ("0" if key[-1] != "0" else "1")
    for api_key in (unknown, "", "garbage"):
        response = ask(server, descriptor(("api_key", api_key)))
        assert response.overall_code == OVER_LIMIT
        assert "retry-after" not in limit_headers(response)
        assert json.loads(response.raw_body)["reason"] == "KEY_UNKNOWN"
    assert key_id


def test_the_resource_of_a_key(server: Server) -> None:
    """A resource entry beside the key chooses its limits; one that a client made too long is cut, not refused."""
    _, key = server.key("once")
    for resource in ("orders.create", "x" * 5_000, "with\nlines"):
        assert ask(server, descriptor(("api_key", key), ("resource", resource))).overall_code == OK


@pytest.mark.parametrize("before", [b"", b"\x0a\x06\x0a\x01b\x12\x011"], ids=["first", "second"])
def test_values_that_are_not_utf8(server: Server, before: bytes) -> None:
    """A value that is not UTF-8 is limited like any other: an error would let it pass where Envoy fails open."""
    rule = {"key": "a", "value": "\ufffd*", "limits": [quota(1)]}
    domain = put_rules(server, {"key": "b", "descriptors": [rule]} if before else rule)
    entry = b"\x0a\x01a\x12\x03\xff\xfez"
    descriptor = before + b"\x0a" + bytes([len(entry)]) + entry
    data = b"\x0a" + bytes([len(domain)]) + domain.encode() + b"\x12" + bytes([len(descriptor)]) + descriptor
    codes = [RateLimitResponse.FromString(send(server, SHOULD_RATE_LIMIT, data)).overall_code for _ in range(2)]
    assert codes == [OK, OVER_LIMIT]
