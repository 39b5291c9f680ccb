"""The Python client against `ratelimit-service dev`, and the examples of the READMEs as written."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from ratelimit_client import (
    AsyncRateLimitClient,
    Decision,
    OnError,
    Origin,
    RateLimitClient,
    RateLimitError,
    RateLimitMiddleware,
    Reason,
    Source,
)

from clients import test_python_wsgi as wsgi
from clients.asgi_host import hello, request
from clients.conftest import ROOT
from fixtures.dev_server import DevServer
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub

_DEADLINE = 10.0
_WRITTEN_TARGET = "localhost:50051"


def _new_key(server: DevServer) -> tuple[str, str]:
    """Make a key on plan free for a subject of its own: its id and secret."""
    with grpc.insecure_channel(server.listen) as channel:
        manage = KeyAdminServiceStub(channel).ManageKey
        create = ManageKeyRequest.CreateKey(plan="free", subject=f"client-{time.monotonic_ns()}")
        created = manage(
            ManageKeyRequest(create=create),
            metadata=(("authorization", f"Bearer {server.state['admin_token']}"),),
            timeout=10,
        ).create
        return created.key.key_id, created.secret


def _revoke(server: DevServer, key_id: str) -> None:
    with grpc.insecure_channel(server.listen) as channel:
        KeyAdminServiceStub(channel).ManageKey(
            ManageKeyRequest(revoke=ManageKeyRequest.RevokeKey(key_id=key_id)),
            metadata=(("authorization", f"Bearer {server.state['admin_token']}"),),
            timeout=10,
        )


def test_a_reservation_is_settled(dev_server: DevServer) -> None:
    """At the actual cost; left without one at the estimate, and after an exception at what was chosen."""
    _, secret = _new_key(dev_server)
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        client.wait_until_connected()

        def daily() -> int:
            return _daily(client, secret)

        begun = daily()
        with client.reserve(secret, estimate=10, hold=30) as reservation:
            assert (reservation.allowed, daily()) == (True, begun - 10)
            assert reservation.extend(60)
            assert reservation.settle(4).settled
        assert daily() == begun - 4
        with client.reserve(secret, estimate=3, hold=30):
            pass
        assert daily() == begun - 7
        with pytest.raises(KeyError), client.reserve(secret, estimate=5, hold=30, on_error=OnError.NOTHING):
            raise KeyError
        assert daily() == begun - 7
        assert client.failures.unsettled == 0


def test_a_burst_is_decided_exactly(dev_server: DevServer) -> None:
    """On plan free 20 calls and what refills meanwhile are allowed, and then none until retry_after has passed."""
    _, secret = _new_key(dev_server)
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        client.wait_until_connected()
        started = time.monotonic()
        allowed = 0
        while (decision := client.check(secret, "orders.create")).allowed:
            assert (decision.source, decision.plan, decision.origin) == (Source.STORE, "free", Origin.SERVICE)
            allowed += 1
        assert 20 <= allowed <= 20 + 10 * (time.monotonic() - started)
        assert (decision.reason, decision.limit) == (Reason.OVER_LIMIT, "burst")
        assert decision.retry_after is not None
        time.sleep(decision.retry_after.total_seconds() + 0.002)
        assert client.check(secret, "orders.create").allowed
        assert client.failures.open == 0


def test_calls_by_grants_are_exact(dev_server: DevServer) -> None:
    """By the limits of plan free, as calls that are checked; what was not spent is returned at `close`."""
    _, secret = _new_key(dev_server)
    made = dev_server.run("admin-tokens", "create", f"grants-{time.monotonic_ns()}", "--role", "gateway", "--json")
    token = json.loads(made.stdout)["token"]
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as checked:
        begun = _daily(checked, secret)
        with RateLimitClient(dev_server.listen, deadline=_DEADLINE, token=token, mode="granted") as client:
            client.ready()
            started = time.monotonic()
            allowed: list[Decision] = []
            while (decision := client.check(secret, f"orders.{len(allowed) % 3}")).allowed:
                allowed.append(decision)
                time.sleep(0.002)
            assert len(allowed) <= 20 + 10 * (time.monotonic() - started)
            assert (decision.reason, decision.limit, decision.plan) == (Reason.OVER_LIMIT, "burst", "free")
            assert sum(each.source is Source.GRANT for each in allowed) >= len(allowed) // 2
            assert client.failures.open == 0
        grants = client.grants
        assert (grants.held, grants.requests > 0) == (0, True)
        assert _daily(checked, secret) == begun - len(allowed)


def _daily(client: RateLimitClient, secret: str) -> int:
    """What the daily quota of plan free has left."""
    return next(limit.remaining for limit in client.peek(secret).limits if limit.name == "daily")


def test_a_cached_denial_expires_after_retry_after(dev_server: DevServer) -> None:
    """A cost that empties the bucket is denied from the cache until its wait is over, then allowed by the service."""
    _, secret = _new_key(dev_server)
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        assert client.check(secret, "orders.create", cost=20).allowed
        denied = client.check(secret, "orders.create", cost=20)
        assert (denied.reason, denied.origin) == (Reason.OVER_LIMIT, Origin.SERVICE)
        assert denied.retry_after is not None
        received = time.monotonic()
        cached = client.check(secret, "orders.create", cost=20)
        assert cached.origin is Origin.CACHE
        time.sleep(denied.retry_after.total_seconds() + 0.002 - (time.monotonic() - received))
        again = client.check(secret, "orders.create", cost=20)
        assert (again.allowed, again.origin) == (True, Origin.SERVICE)


def test_a_repeated_request_id_is_charged_once(dev_server: DevServer) -> None:
    """The caller's own id makes the second call free, with the first decision."""
    _, secret = _new_key(dev_server)
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        first = client.check(secret, "orders.create", cost=15, request_id="order-1")
        again = client.check(secret, "orders.create", cost=15, request_id="order-1")
        other = client.check(secret, "orders.create", cost=15, request_id="order-2")
    assert (first.allowed, again.allowed, other.allowed) == (True, True, False)


def test_a_revoked_key_has_its_own_reason(dev_server: DevServer) -> None:
    """Within two seconds of its revocation a key is denied for that reason."""
    key_id, secret = _new_key(dev_server)
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        assert client.check(secret, "orders.list").allowed
        _revoke(dev_server, key_id)
        ends = time.monotonic() + 2
        while (reason := client.peek(secret, "orders.list").reason) is not Reason.KEY_REVOKED:
            assert reason is Reason.WITHIN_LIMIT
            assert time.monotonic() < ends
            time.sleep(0.02)


def test_a_malformed_key_is_unknown(dev_server: DevServer) -> None:
    """A malformed key is denied like any other that does not exist."""
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        decision = client.check("garbage", "orders")
    assert (decision.allowed, decision.reason, decision.origin) == (False, Reason.KEY_UNKNOWN, Origin.SERVICE)


@pytest.mark.parametrize(
    ("call", "code", "field"),
    [
        (lambda client, _: client.check("", "orders"), "INVALID_ARGUMENT", "api_key"),
        (lambda client, key: client.check(key, "x" * 257), "INVALID_ARGUMENT", "resource"),
        (lambda client, key: client.check(key, "orders", cost=9_007_199_255), "INVALID_ARGUMENT", "cost"),
        (lambda client, _: client.check(key_id="0000000000000000"), "PERMISSION_DENIED", ""),
    ],
)
def test_an_invalid_call_is_raised(
    dev_server: DevServer, call: Callable[[RateLimitClient, str], Decision], code: str, field: str
) -> None:
    """An absent key, a resource or cost out of bounds and a key id without a token are each raised with the field."""
    with RateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        with pytest.raises(RateLimitError) as caught:
            call(client, dev_server.state["api_key"])
        assert (caught.value.code.name, caught.value.field) == (code, field)
        assert client.failures.open == 0


async def test_the_middleware_in_front_of_an_application(dev_server: DevServer) -> None:
    """A request that takes all tokens of plan free passes, the next gets 429, and both get headers."""
    _, secret = await asyncio.to_thread(_new_key, dev_server)
    async with AsyncRateLimitClient(dev_server.listen, deadline=_DEADLINE) as client:
        app = RateLimitMiddleware(hello, client, cost=lambda _: 20)
        first = await request(app, "GET", "/v1/orders", {"x-api-key": secret})
        second = await request(app, "GET", "/v1/orders", {"x-api-key": secret})
        garbage = await request(app, "GET", "/v1/orders", {"x-api-key": "garbage"})
    assert (first.status, second.status, garbage.status) == (200, 429, 401)
    assert garbage.problem["detail"] == "The API key is not known."
    assert first.headers["ratelimit-policy"] == '"burst";q=20;w=2, "daily";q=10000;w=86400'
    assert first.headers["ratelimit"].startswith('"burst";r=0;t=2, "daily";r=9980;t=')
    assert second.headers["retry-after"] == "2"
    assert second.problem["violated-policies"] == ["burst"]


def _blocks(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


async def test_the_three_lines_of_the_readme(dev_server: DevServer) -> None:
    """The Python lines of clients/README.md, run as written except for the address, protect an application."""
    (lines,) = _blocks("clients/README.md")
    assert len(lines.splitlines()) == 3
    _, secret = await asyncio.to_thread(_new_key, dev_server)
    names: dict[str, Any] = {"app": hello}
    exec(compile(_at(dev_server, lines), "README.md", "exec"), names)
    async with names["client"]:
        await names["client"].wait_until_connected()
        response = await request(names["app"], "GET", "/", {"x-api-key": secret})
        refused = await request(names["app"], "GET", "/", {"x-api-key": "garbage"})
    assert (response.status, refused.status) == (200, 401)


async def test_the_readme_of_the_package(dev_server: DevServer) -> None:
    """Every example of the package's README runs as written except for the address."""
    names: dict[str, Any] = {"api_key": (await asyncio.to_thread(_new_key, dev_server))[1], "app": hello}
    names |= {"model": _Model, "prompt": "", "max_tokens": 5, "routes": [], "application": wsgi.hello, "token": None}
    blocks = _blocks("clients/python/README.md")
    assert len(blocks) == 9
    clients = []
    for block in blocks:
        own = dict(names)  # two have an `is_preflight`, each its own
        exec(compile(_at(dev_server, block), "README.md", "exec"), own)
        names |= own
        clients.append(names["client"])
    assert names["decision"].allowed
    assert names["reservation"].allowed
    assert names["answer"].tokens == 3
    assert (await request(names["app"], "GET", "/", {})).status == 401
    assert (await asyncio.to_thread(wsgi.request, names["application"], "GET", "/", {})).status == 401
    assert names["failed"] == 0
    for client in clients:
        closing = client.close()
        if closing is not None:
            await closing


class _Model:
    """A language model."""

    tokens = 3

    @classmethod
    def answer(cls, _prompt: str, _max_tokens: int) -> type["_Model"]:
        return cls


def _at(server: DevServer, lines: str) -> str:
    assert _WRITTEN_TARGET in lines
    return lines.replace(_WRITTEN_TARGET, server.listen)
