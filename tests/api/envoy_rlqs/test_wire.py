"""StreamRateLimitQuotas on the wire, as in Envoy's protocol."""

import time

import grpc
import pytest

from api.envoy.wire import ask, bucket, descriptor, put_rules
from api.envoy_rlqs.client import QuotaClient, message
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import RateLimitQuotaUsageReports
from ratelimit_service.management.tokens import Role

SEARCH = {"part": "search"}
TOKENS = 1_000  # of 10 a second in 600 seconds there are 6,000; of 100 in 10 seconds 1,000


def test_two_envoys_share_a_limit(server: Server) -> None:
    """The first gets all of it, then each a half, whichever processes they are connected to; then as they report."""
    domain = put_rules(server, {"key": "part", "value": "search", "limits": [bucket(50, 100, 1)]})
    with QuotaClient(server) as first, QuotaClient(server) as second:
        first.send(message(domain, (SEARCH, 0, 1)))
        (action,) = first.wait()
        assigned = action.quota_assignment_action
        assert (dict(action.bucket_id.bucket), assigned.assignment_time_to_live.seconds) == (SEARCH, 15)
        tokens = assigned.rate_limit_strategy.token_bucket
        assert (tokens.max_tokens, tokens.tokens_per_fill.value, tokens.fill_interval.seconds) == (50, TOKENS, 10)
        second.send(message(domain, (SEARCH, 0, 1)))
        first.wait_for(SEARCH, TOKENS // 2)
        second.wait_for(SEARCH, TOKENS // 2)
        time.sleep(1.1)
        first.send(message(domain, (SEARCH, 0, 0), elapsed=1))
        second.send(message(domain, (SEARCH, 60, 240), elapsed=1))
        first.wait_for(SEARCH, 25)
        second.wait_for(SEARCH, 975)
    until = time.monotonic() + 10  # checks see what was spent, in the seconds after it was reported
    while (
        ask(server, descriptor(("part", "search"), hits_addend={"value": 0}), domain=domain).statuses[0].limit_remaining
        == 50
    ):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_is_no_share(server: Server) -> None:
    """A bucket has no order; one without a rule passes, one out of bounds is denied, one not UTF-8 has no answer."""
    rules = {"key": "a", "value": "1", "descriptors": [{"key": "b", "limits": [{"blocked": {}}]}]}
    domain = put_rules(server, rules)
    unreadable = RateLimitQuotaUsageReports(domain=domain)
    usage = unreadable.bucket_quota_usages.add(num_requests_denied=1)
    usage.bucket_id.bucket["a"] = "?"
    raw = unreadable.SerializeToString().replace(b"?", b"\xff")
    long = {"k" * 257: "v"}
    with QuotaClient(server) as client:
        client.send(raw)
        client.send(raw.replace(b"\n\x01a", b"\n\x01\xff"))
        client.send(message("", ({"b": "x", "a": "1"}, 0, 1), ({"none": "1"}, 1, 0), (long, 0, 1), ({}, 0, 1)))
        actions = client.wait(3)
        strategies = {
            tuple(sorted(action.bucket_id.bucket)): action.quota_assignment_action.rate_limit_strategy.blanket_rule
            for action in actions
        }
        assert strategies == {("a", "b"): 1, ("none",): 0, tuple(long): 1}
        client.close()
        assert client.wait_ended() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (b"\xff\xff", b"", grpc.StatusCode.INVALID_ARGUMENT),
        (message(""), b"", grpc.StatusCode.INVALID_ARGUMENT),
        (message("d" * 257), b"", grpc.StatusCode.INVALID_ARGUMENT),
        (message("one"), message("other"), grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(1_000_001), b"", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_what_ends_a_stream(
    server: Server, first: RateLimitQuotaUsageReports | bytes, second: RateLimitQuotaUsageReports | bytes, code: object
) -> None:
    """Nothing that a client of an Envoy can send: no message, another domain, too large a report."""
    with QuotaClient(server) as client:
        client.send(first)
        client.send(second)
        assert client.wait_ended() is code, client.message


def test_a_report_of_very_many_buckets(server: Server) -> None:
    """In one message, as Envoy sends it: each gets its share."""
    domain = put_rules(server, {"key": "user", "limits": [bucket(50, 100, 1)]})
    buckets = [{"user": f"user-{number:020}"} for number in range(3_000)]
    with QuotaClient(server) as client:
        client.send(message(domain, *((each, 0, 1) for each in buckets)))
        actions = client.wait(3_000)
        assert {action.bucket_id.bucket["user"] for action in actions} == {each["user"] for each in buckets}


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.ADMIN])
def test_only_gateways(server: Server, role: Role | None) -> None:
    """Who says what was spent decides what others get."""
    with QuotaClient(server, "" if role is None else server.tokens[role]) as client:
        client.send(message("any", (SEARCH, 0, 1)))
        assert client.wait_ended() is grpc.StatusCode.PERMISSION_DENIED
