"""Calls of Envoy's protocols as Envoy makes them, by a stock gRPC client."""

import time
from itertools import count
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from fixtures.served import Server
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
AUTHORIZE = "/envoy.service.auth.v3.Authorization/Check"
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
SECONDS = 10.0

_domains = count(1)


class Refused(Exception):
    """An error response: its code, its message, and the fields that it names."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        bad = error_details_pb2.BadRequest()
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            detail.Unpack(bad)
            detail.Unpack(info)
        self.fields = [violation.field for violation in bad.field_violations]
        self.reason = info.reason
        super().__init__(self.message)


def send(server: Server, method: str, data: bytes, token: str | None = None) -> bytes:
    """Call METHOD with these bytes. Raises Refused."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    try:
        response: bytes = server.channel.unary_unary(method)(data, metadata=metadata, timeout=SECONDS)
    except grpc.RpcError as error:
        raise Refused(error) from None
    return response


def ask(server: Server, *descriptors: dict[str, Any], token: str | None = None, **fields: Any) -> RateLimitResponse:  # noqa: ANN401
    """Ask for a decision on descriptors. Raises Refused."""
    request = RateLimitRequest(descriptors=descriptors, **{"domain": "front", **fields})
    return RateLimitResponse.FromString(send(server, SHOULD_RATE_LIMIT, request.SerializeToString(), token))


def descriptor(*entries: tuple[str, str], **fields: object) -> dict[str, Any]:
    """One descriptor."""
    return {"entries": [{"key": key, "value": value} for key, value in entries], **fields}


def authorize(
    server: Server,
    path: str = "/orders",
    method: str = "GET",
    extensions: dict[str, str] | None = None,
    token: str | None = None,
    **headers: str,
) -> CheckResponse:
    """Ask whether a request with these headers (`_` for `-`) may go on. Raises Refused."""
    http = {"method": method, "path": path, "headers": {name.replace("_", "-"): v for name, v in headers.items()}}
    attributes = {"request": {"http": http}, "context_extensions": extensions or {}}
    data = CheckRequest(attributes=attributes).SerializeToString()
    return CheckResponse.FromString(send(server, AUTHORIZE, data, token))


def limit_headers(response: RateLimitResponse) -> dict[str, str]:
    """The headers for the client."""
    return {header.key: header.value for header in response.response_headers_to_add}


def put_rules(server: Server, *descriptors: dict[str, Any], on_store_failure: str = "FAIL", **fields: object) -> str:
    """Put rules in force for a domain of the test's own, and return its name once they are."""
    domain = f"domain-{next(_domains)}"
    rules = {"domain": domain, "on_store_failure": on_store_failure, "descriptors": [*descriptors, _MARK]} | fields
    request = admin_pb2.ManageRulesRequest(replace={"rules": rules})
    server.manage().ManageRules(request, metadata=server.as_admin)
    until = time.monotonic() + SECONDS
    while (
        not ask(server, descriptor(("in", "force"), hits_addend={"value": 0}), domain=domain)
        .statuses[0]
        .limit_remaining
    ):
        assert time.monotonic() < until, f"the rules of {domain} are not in force"
        time.sleep(0.01)
    return domain


def quota(amount: int, window: str = "DAY", **fields: object) -> dict[str, Any]:
    """A quota of a rule; by default of a day, so that no test meets the end of a window."""
    return {"quota": {"amount": amount, "window": window}, **fields}


def bucket(capacity: int, refill_tokens: int, seconds: int = 86_400, **fields: object) -> dict[str, Any]:
    """A token bucket of a rule."""
    refill = {"capacity": capacity, "refill_tokens": refill_tokens, "refill_period": {"seconds": seconds}}
    return {"token_bucket": refill, **fields}


_MARK = {"key": "in", "value": "force", "limits": [{"unlimited": {}}]}
