"""Spans and the access log of a whole server, as a real receiver of OTLP gets them."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fixtures.dev_server import free_address
from fixtures.otlp_receiver import Receiver, attributes, receiving
from fixtures.pages import blocks
from fixtures.served import Server
from operations.probe import ask
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

CHECKS = "ratelimit.v1.RateLimitService"
RLS = "envoy.service.ratelimit.v3.RateLimitService"
AUTHORIZATION = "envoy.service.auth.v3.Authorization"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where spans are sent."""
    with receiving() as started:
        yield started


class Caller:
    """A gateway that traces some of its calls, each in a trace of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._number = 0xABC0

    def call(
        self, method: str, request: Message, response: type[Message], *, flags: str = "01", token: str | None = None
    ) -> tuple[str, Message | grpc.RpcError]:
        """Call METHOD. Returns the id of the trace, and what came."""
        self._number += 1
        trace_id = f"{self._number:032x}"
        metadata = [("traceparent", f"00-{trace_id}-{PARENT}-{flags}"), ("tracestate", "vendor=opaque")]
        if token is None:
            token = self._server.tokens[Role.GATEWAY]
        if token:
            metadata.append(("authorization", f"Bearer {token}"))
        call = self._server.channel.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            return trace_id, call(request, metadata=metadata, timeout=5)
        except grpc.RpcError as error:
            return trace_id, error

    def check(
        self, api_key: str, cost: int = 1, *, flags: str = "01", token: str | None = None
    ) -> tuple[str, Message | grpc.RpcError]:
        """Call CheckLimit with a key."""
        request = checks_pb2.CheckLimitRequest(api_key=api_key, resource="GET /a?secret=query", cost=cost)
        return self.call(f"{CHECKS}/CheckLimit", request, checks_pb2.CheckLimitResponse, flags=flags, token=token)


def traced_over_http(server: Server, api_key: str, trace_id: str) -> int:
    """Call CheckLimit in JSON, in this trace. Returns the HTTP status."""
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {server.tokens[Role.GATEWAY]}",
        "traceparent": f"00-{trace_id}-{PARENT}-01",
        "tracestate": "vendor=opaque",
    }
    with closing(HTTPConnection(server.settings.http_listen, timeout=5)) as connection:
        connection.request("POST", f"/{CHECKS}/CheckLimit", json.dumps({"api_key": api_key, "cost": 0}), headers)
        return connection.getresponse().status


def total(server: Server, metric: str) -> float:
    """The sum of a metric's samples with these labels."""
    text = ask(server.settings.operations_listen, "/metrics").text
    return sum(float(value) for value in re.findall(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE))


def in_trace(spans: Sequence[Span], trace_id: str, kind: int | None = None) -> list[Span]:
    """The spans of a trace."""
    return [span for span in spans if span.trace_id.hex() == trace_id and kind in {None, span.kind}]


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_caller_s_trace_goes_on_to_the_store(  # noqa: PLR0915  one server for all of it
    own_server: Callable[..., Server], receiver: Receiver, transport: str
) -> None:
    """Calls that their caller traces have spans in its trace, others none; no secret is in them or in the log.

    When the collector goes away, calls notice nothing, and its spans are counted.
    """
    server = own_server(
        transport,
        otlp_endpoint=f"http://{receiver.address}",
        trace_sampling=0.0,
        access_log_sampling=1.0,
        log_format="json",
        protect_checks=True,
        operations_listen=free_address(),
        http_listen=free_address(),
        variables={"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_HEADERS": "x-collector=c0llector-s3cret"},
    )
    key_id, api_key = server.key("once")
    caller = Caller(server)
    first, allowed = caller.check(api_key)
    again, _ = caller.check(api_key)
    denied, _ = caller.check(api_key, cost=21)
    quiet, _ = caller.check(api_key, flags="00")
    stranger, refused = caller.check(api_key, token="")
    assert isinstance(refused, grpc.RpcError)
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    batch = checks_pb2.BatchCheckLimitRequest(checks=[{"api_key": api_key, "cost": cost} for cost in (0, 0, 99)])
    batched, _ = caller.call(f"{CHECKS}/BatchCheckLimit", batch, checks_pb2.BatchCheckLimitResponse)
    wrong, _ = caller.check(api_key, cost=2**60)
    rls = RateLimitRequest(domain="none", descriptors=[{"entries": [{"key": "a", "value": "hidden-value"}]}])
    described, _ = caller.call(f"{RLS}/ShouldRateLimit", rls, RateLimitResponse)
    http = {"method": "GET", "path": "/a?secret=query", "headers": {"x-api-key": api_key}}
    asked = CheckRequest(attributes={"request": {"http": http}})
    authorized, _ = caller.call(f"{AUTHORIZATION}/Check", asked, CheckResponse)
    listed = admin_pb2.ManagePlanRequest(get={"name": "once"})
    managed, _ = caller.call(
        "ratelimit.v1.KeyAdminService/ManagePlan",
        listed,
        admin_pb2.ManagePlanResponse,
        token=server.tokens[Role.ADMIN],
    )
    over_http = f"{0xABBF:032x}"
    assert traced_over_http(server, api_key, over_http) == 200
    followed = {first, again, denied, batched, wrong, described, authorized, managed, over_http}
    spans = receiver.wait_for(lambda found: followed <= {span.trace_id.hex() for span in found})

    def call_of(trace_id: str) -> tuple[Span, dict[str, Any]]:
        (span,) = in_trace(spans, trace_id, Span.SPAN_KIND_SERVER)
        assert span.parent_span_id.hex() == PARENT
        assert span.trace_state == "vendor=opaque"
        return span, attributes(span)

    span, found = call_of(first)
    assert span.name == f"{CHECKS}/CheckLimit"
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 5e9
    assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 60
    assert found.pop("ratelimit.queue_seconds") >= 0
    assert 0 < found.pop("ratelimit.store_seconds") < 5
    assert found == {
        "rpc.system": "grpc",
        "rpc.service": CHECKS,
        "rpc.method": "CheckLimit",
        "rpc.grpc.status_code": 0,
        "ratelimit.outcome": "allowed",
        "ratelimit.reason": "WITHIN_LIMIT",
        "ratelimit.source": "STORE",
        "ratelimit.key_id": key_id,
        "ratelimit.plan": "once",
        "ratelimit.limit": "burst",
    }
    (lookup,) = in_trace(spans, first, Span.SPAN_KIND_CLIENT)  # the key was not in memory
    assert (lookup.name, lookup.parent_span_id) == ("policy lookup", span.span_id)
    assert in_trace(spans, again, Span.SPAN_KIND_CLIENT) == []
    (run,) = [each for each in spans if each.name == "charge" and each.links[0].span_id == span.span_id]
    assert (run.trace_id, run.parent_span_id) not in {(span.trace_id, b""), (span.trace_id, span.span_id)}
    assert [(link.trace_id, link.span_id) for link in run.links] == [(span.trace_id, span.span_id)]
    assert [(link.trace_id, link.span_id) for link in span.links] == [(run.trace_id, run.span_id)]
    assert attributes(run)["ratelimit.charges"] == 1
    assert attributes(run)["db.system.name"] == "redis"

    _, found = call_of(denied)
    assert (found["ratelimit.outcome"], found["ratelimit.reason"]) == ("denied", "COST_EXCEEDS_CAPACITY")
    _, found = call_of(batched)
    assert (found["ratelimit.checks"], found["ratelimit.denied"], found["ratelimit.failed"]) == (3, 1, 0)
    span, found = call_of(wrong)
    assert (found["rpc.grpc.status_code"], found["ratelimit.error"]) == (3, "INVALID_FIELD")
    assert span.status.code == Status.STATUS_CODE_UNSET
    _, found = call_of(described)
    assert (found["ratelimit.outcome"], found["ratelimit.descriptors"]) == ("allowed", 1)
    _, found = call_of(authorized)
    assert (found["ratelimit.outcome"], found["ratelimit.key_id"]) == ("allowed", key_id)
    assert call_of(managed)[1]["rpc.method"] == "ManagePlan"
    assert call_of(over_http)[1]["ratelimit.outcome"] == "allowed"
    assert in_trace(spans, quiet) == in_trace(spans, stranger) == []

    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    access = [line for line in lines if line["event"] == "access"]
    traces = [line.get("trace_id") for line in access]
    assert [traces.count(trace_id) for trace_id in (first, denied, managed)] == [1, 1, 1]
    assert traces.count(None) >= 2  # the quiet call and the stranger's
    (line,) = [line for line in access if line.get("trace_id") == first]
    (example,) = blocks("docs/tracing.md", "json")
    assert line.keys() == json.loads(example).keys()
    assert (line["caller"], line["code"], line["key_id"]) == ("gateway", "OK", key_id)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["peer"])
    (called,) = [line for line in lines if line["event"] == "call" and line.get("trace_id") == managed]
    assert called["method"].endswith("ManagePlan")

    receiver.stop()
    began = time.monotonic()
    for _ in range(5):
        _, allowed = caller.check(api_key, cost=0)
        assert isinstance(allowed, checks_pb2.CheckLimitResponse)
        assert allowed.allowed
    assert time.monotonic() - began < 2
    deadline = time.monotonic() + 15
    while total(server, 'ratelimit_spans_total{result="failed"}') < 10:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.1)
    assert total(server, 'ratelimit_spans_total{result="exported"}') == len(receiver.spans)
    assert server.output.count("spans cannot be exported") == 1

    sent = "".join(map(str, receiver.requests)) + server.output
    secrets = [api_key.rpartition("_")[2], *(token.rpartition("_")[2] for token in server.tokens.values())]
    for secret in (*secrets, "c0llector-s3cret", "secret=query", "hidden-value"):
        assert secret not in sent


def test_groups_of_a_stream_are_sampled_by_themselves(own_server: Callable[..., Server], receiver: Receiver) -> None:
    """Each in a trace of its own, whatever its caller's is. Where no token is needed, anybody's flag is honoured."""
    server = own_server("envoy", otlp_endpoint=f"http://{receiver.address}", trace_sampling=1.0, protect_checks=False)
    _, api_key = server.key("wide")
    caller = Caller(server)
    single, _ = caller.check(api_key, token="")
    method = f"{CHECKS}/StreamCheckLimit"
    stub = RateLimitServiceStub(server.channel)
    request = checks_pb2.StreamCheckLimitRequest(check={"api_key": api_key})
    opened = f"{0xF00:032x}"
    metadata = [("traceparent", f"00-{opened}-{PARENT}-01")]
    responses = list(stub.StreamCheckLimit(iter([request] * 3), metadata=metadata, timeout=5))
    assert len(responses) == 3
    receiver.wait_for(lambda found: any(span.name == "ratelimit.v1.KeyAdminService/ManageKey" for span in found))
    spans = receiver.wait_for(
        lambda found: sum(attributes(span).get("ratelimit.checks", 0) for span in found if span.name == method) == 3
    )
    groups = [span for span in spans if span.name == method]
    assert all(span.parent_span_id == b"" and span.links for span in groups)
    assert in_trace(spans, opened) == []
    assert len(in_trace(spans, single, Span.SPAN_KIND_SERVER)) == 1
    assert all(span.parent_span_id == b"" for span in spans if span.name.startswith("ratelimit.v1.KeyAdminService"))
