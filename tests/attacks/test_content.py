"""Requests that are well-formed calls and cost as much to read as their senders can make them.

Each was sent by whoever reaches the port: without a key where that is possible, and never with a token.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Final

import grpc
import pytest

from attacks.attacked import Target, attacked
from attacks.sizes import FULL, TOLERATED
from operations.probe import ask
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"
LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
BATCH: Final = "/ratelimit.v1.RateLimitService/BatchCheckLimit"

LENGTH: Final = 65_000
"""Bytes of a message that are filled, of the 65,536 that are accepted."""


def authorization(**http: object) -> bytes:
    """A CheckRequest."""
    return CheckRequest(attributes={"request": {"http": {"method": "GET", "path": "/", **http}}}).SerializeToString()


def request(*entries: tuple[str, str], descriptors: int = 1, **fields: object) -> bytes:
    """A RateLimitRequest with so many times the same descriptor."""
    one = {"entries": [{"key": key, "value": value} for key, value in entries], **fields}
    return RateLimitRequest(domain="content", descriptors=[one] * descriptors).SerializeToString()


MESSAGES: Final[dict[str, tuple[str, bytes]]] = {
    "path of escapes": (CHECK, authorization(path="/" + "%41" * (LENGTH // 3))),
    "path of escaped controls": (CHECK, authorization(path="/" + "%00" * (LENGTH // 3))),
    "path of wide characters": (CHECK, authorization(path="/" + "\u00e9" * (LENGTH // 2))),
    "path of escapes, some key": (CHECK, authorization(path="/" + "%41" * 21_000, headers={"x-api-key": "x" * 70})),
    "long key": (CHECK, authorization(headers={"x-api-key": "rlk_live_" + "k" * LENGTH})),
    "empty raw headers": (CHECK, authorization(header_map={"headers": [{}] * (LENGTH // 2)})),
    "one raw header again and again": (
        CHECK,
        authorization(header_map={"headers": [{"key": "x-api-key", "value": ""}] * (LENGTH // 14)}),
    ),
    "empty headers": (CHECK, authorization(headers={f"{number:x}": "" for number in range(LENGTH // 10)})),
    "empty descriptors": (LIMIT, request(descriptors=LENGTH // 2)),
    "small descriptors": (LIMIT, request(("a", "b"), descriptors=LENGTH // 10)),
    "empty entries": (LIMIT, request(*[("", "")] * (LENGTH // 2))),
    "long key in a descriptor": (LIMIT, request(("api_key", "rlk_live_" + "k" * LENGTH))),
    "long resource beside a key": (LIMIT, request(("api_key", "x" * 70), ("resource", "\u0080" * (LENGTH // 2)))),
    "long value": (LIMIT, request(("path", "/admin" * (LENGTH // 6)))),
    "empty checks": (BATCH, b"\x0a\x00" * (LENGTH // 2)),
}
"""Method and message, by name."""

ATTACKS: Final = [[name] for name in MESSAGES] if FULL else [list(MESSAGES)]
"""In CI all of them in turn, else one after the other, each with figures of its own."""


def send_again(address: str, until: float, names: list[str]) -> Counter[str]:
    """Send these messages in turn, one call at a time."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(address) as channel:
        methods = {method: channel.unary_unary(method) for method in (CHECK, LIMIT, BATCH)}
        while time.monotonic() < until:
            for name in names:
                method, data = MESSAGES[name]
                try:
                    found[outcome_of(method, methods[method](data, timeout=10))] += 1
                except grpc.RpcError as error:
                    found[f"{method.rpartition('/')[2]} {error.code().name}"] += 1
    return found


def outcome_of(method: str, response: bytes) -> str:
    """Whether a response denies."""
    if method == CHECK:
        return "denied" if CheckResponse.FromString(response).status.code else "allowed"
    return (
        "denied" if RateLimitResponse.FromString(response).overall_code == RateLimitResponse.OVER_LIMIT else "allowed"
    )


@pytest.fixture
def rules(target: Target) -> None:
    """Rules with wildcards for the values of strangers."""
    limits = [{"quota": {"amount": 1_000_000_000, "window": "YEAR"}}]
    descriptors = [{"key": "path", "value": f"/*admin*{number}*/users", "limits": limits} for number in range(50)]
    everything = [*descriptors, {"key": "path", "limits": limits}]
    put = {"domain": "content", "on_store_failure": "LOCAL", "descriptors": everything}
    request = admin_pb2.ManageRulesRequest(replace={"rules": put})
    target.server.manage().ManageRules(request, metadata=target.server.as_admin)


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("names", ATTACKS, ids=["+".join(names) if FULL else "all" for names in ATTACKS])
def test_expensive_messages(target: Target, names: list[str]) -> None:
    """They are denied before most of them is read, and the victim does not notice; the only error is a batch's own."""
    with attacked(target, name=names[0] if FULL else "content") as report:
        found = report.attack(send_again, names)
    assert set(found) <= {"denied", "allowed", "BatchCheckLimit INVALID_ARGUMENT"}, found
    if names != ["long value"]:
        assert found["denied"] + found["BatchCheckLimit INVALID_ARGUMENT"] > 0


TOO_MANY: Final[dict[str, tuple[str, str]]] = {
    "empty descriptors": ("ShouldRateLimit", "descriptors"),
    "small descriptors": ("ShouldRateLimit", "descriptors"),
    "empty entries": ("ShouldRateLimit", "descriptors.entries"),
    "empty headers": ("Check", "attributes.request.http.headers"),
    "empty raw headers": ("Check", "attributes.request.http.headers"),
    "one raw header again and again": ("Check", "attributes.request.http.headers"),
}
"""The method and the reason by which a denial is counted, by the name of the message."""


def out_of_bounds(target: Target) -> Counter[tuple[str, str]]:
    """How many requests were denied for their form so far, by method and reason."""
    text = ask(target.server.settings.operations_listen, "/metrics").text
    pattern = r'^ratelimit_out_of_bounds_requests_total\{method="(.+)",reason="(.+)"\} (\S+)$'
    found = re.findall(pattern, text, re.MULTILINE)
    return Counter({(method, reason): int(float(count)) for method, reason, count in found})


def test_what_is_too_many_is_counted_before_it_is_parsed(target: Target) -> None:
    """Of a message that is malformed behind thousands of parts their number is what is wrong: nobody has read its end.

    A parser would make an object of each, or find the end first.
    """
    before, at = out_of_bounds(target), time.monotonic()
    while time.monotonic() < at + 2.5:  # what was denied lately is counted late
        time.sleep(0.1)
        if (now := out_of_bounds(target)) != before:
            before, at = now, time.monotonic()
    for name in TOO_MANY:
        method, data = MESSAGES[name]
        response = target.server.channel.unary_unary(method)(data + b"\xff", timeout=10)
        assert outcome_of(method, response) == "denied"
    until = time.monotonic() + 10
    while (counted := out_of_bounds(target) - before).total() < len(TOO_MANY):
        assert time.monotonic() < until, counted
        time.sleep(0.05)
    assert counted == Counter(TOO_MANY.values())


SAME_MESSAGE: Final = 200
"""Calls with one message, for what they take of the processor: that is counted in hundredths of a second."""

PATH_FACTOR: Final = 4
"""By which a path of escapes may take longer than one of letters. It would be ten, if all of it were decoded."""


def test_a_long_path_is_decoded_in_part(target: Target) -> None:
    """A path of 21,000 escapes takes about as much of the processor as one of as many letters."""
    method, escapes = MESSAGES["path of escapes, some key"]
    letters = authorization(path="/" + "a" * (3 * 21_000), headers={"x-api-key": "x" * 70})
    assert len(letters) == len(escapes)
    call = target.server.channel.unary_unary(method)

    def processor_seconds() -> float:
        times = [worker.cpu_times() for worker in target.server.workers()]
        return sum(each.user + each.system for each in times)

    def taken(message: bytes) -> float:
        call(message, timeout=10)
        before = processor_seconds()
        for _ in range(SAME_MESSAGE):
            assert outcome_of(method, call(message, timeout=10)) == "denied"
        return processor_seconds() - before

    of_letters, of_escapes = taken(letters), taken(escapes)
    assert of_escapes <= PATH_FACTOR * of_letters + 0.05, (of_escapes, of_letters)


def flood_values(address: str, until: float, lengths: list[int]) -> Counter[str]:
    """Send a value of one of these lengths in turn, which is new each time."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(LIMIT)
        for length in cycle(lengths):
            if time.monotonic() >= until:
                break
            value = f"/{time.monotonic_ns()}".ljust(length, "x")
            try:
                method(request(("path", value)), timeout=10)
                found["decided"] += 1
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:  # a busy machine refuses under overload
                    raise
                found["refused"] += 1
    return found


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("lengths", [[64], [800]] if FULL else [[64, 800]], ids=lambda each: "+".join(map(str, each)))
def test_values_that_are_new_each_time(target: Target, lengths: list[int]) -> None:
    """What is cached of values that clients choose is bounded, also in bytes."""
    with attacked(target, name=f"new values of {' and '.join(map(str, lengths))}") as report:
        found = report.attack(flood_values, lengths)
    assert found["decided"] > (100 if FULL else 20), found
    assert found["refused"] <= TOLERATED * found.total(), found


def refund(address: str, until: float, domain: str) -> Counter[str]:
    """Refund and override until the time is over, alternating."""
    found: Counter[str] = Counter()
    refunds = RateLimitRequest(
        domain=domain,
        descriptors=[{"entries": [{"key": "a", "value": "1"}], "hits_addend": {"value": 9}, "is_negative_hits": True}],
    ).SerializeToString()
    own = {"requests_per_unit": 4_000_000_000, "unit": "YEAR"}
    override = RateLimitRequest(
        domain=domain, descriptors=[{"entries": [{"key": "a", "value": "1"}], "limit": own}]
    ).SerializeToString()
    plain = RateLimitRequest(domain=domain, descriptors=[{"entries": [{"key": "a", "value": "1"}]}])
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(LIMIT)
        while time.monotonic() < until:
            try:
                refunded = RateLimitResponse.FromString(method(refunds, timeout=10))
                overridden = RateLimitResponse.FromString(method(override, timeout=10))
                after = RateLimitResponse.FromString(method(plain.SerializeToString(), timeout=10))
            except grpc.RpcError as error:  # by a store that is slow on a busy machine, whose rule has FAIL
                found[error.code().name] += 1
                continue
            found["refunds that are no peek"] += refunded.statuses[0].limit_remaining != 0
            found["overrides"] += overridden.overall_code == RateLimitResponse.OK
            found["allowed"] += after.overall_code == RateLimitResponse.OK
            found["tries"] += 1
    return found


def test_strangers_refund_and_override(target: Target, used_up: Callable[[], str]) -> None:
    """Neither gives tokens, and neither is an error, on which a gateway would let the request pass."""
    domain = used_up()
    with attacked(target) as report:
        found = report.attack(refund, domain)
    assert found["tries"] > 0
    assert (found["refunds that are no peek"], found["overrides"], found["allowed"]) == (0, 0, 0)


@pytest.fixture
def used_up(target: Target) -> Callable[[], str]:
    """Put a rule in force whose limit has been used up, and return its domain."""

    def make() -> str:
        limits = [{"quota": {"amount": 5, "window": "YEAR"}}]
        rules = {"domain": "used-up", "descriptors": [{"key": "a", "limits": limits}]}
        put = admin_pb2.ManageRulesRequest(replace={"rules": rules})
        target.server.manage().ManageRules(put, metadata=target.server.as_admin)
        method = target.server.channel.unary_unary(LIMIT)
        one = RateLimitRequest(domain="used-up", descriptors=[{"entries": [{"key": "a", "value": "1"}]}])
        deadline = time.monotonic() + 10
        while RateLimitResponse.FromString(method(one.SerializeToString())).overall_code == RateLimitResponse.OK:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return "used-up"

    return make
