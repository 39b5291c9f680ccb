"""Banners and sections while a store does not answer: the rest of a page stays."""

import json
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest

from console.browser import Browser
from console.test_sessions import soon
from fixtures.dev_server import free_address
from fixtures.served import Serve, Server
from ratelimit_service.bootstrap import Services
from ratelimit_service.clock import SystemClock
from ratelimit_service.console.answers import healthy
from ratelimit_service.console.banners import banners_of
from ratelimit_service.console.health import Component, Health, State
from ratelimit_service.decision.enforcement import Enforcement, Switch
from ratelimit_service.decision.ports import SlowStore, StoreUnavailable
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.management.tokens import Role
from ratelimit_service.operations.readiness import EFFECTS
from ratelimit_service.server.console_health import ServerHealth
from ratelimit_service.server.store_faults import describe_fault
from ratelimit_service.settings import Settings


@pytest.fixture(scope="module")
def without_redis(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Browser, str]]:
    """A server whose Redis was stopped, an admin's browser, and a key."""
    store = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    store.start()
    server = serve("grpcio", operations_listen=free_address(), redis_url=store.url)
    key_id, _ = server.key("free")
    browser = Browser(f"http://{server.settings.operations_listen}/console").sign_in(server.tokens[Role.ADMIN])
    store.stop()
    yield server, browser, key_id
    browser.client.close()
    server.close()


def test_without_redis_pages_stay(without_redis: tuple[Server, Browser, str]) -> None:
    """Only the limits of a key cannot be read, with a reason and what to do; every page says what is wrong."""
    _, browser, key_id = without_redis
    soon(lambda: "Redis refuses connections" in browser.get("/keys").text)
    soon(lambda: '<span class="val t-fault">refuses connections</span>' in browser.get("/").text)
    page = browser.get(f"/keys/{key_id}")
    assert page.status_code == 200
    assert "Limits could not be read" in page.text
    assert "BUCKET_STORE_UNAVAILABLE" in page.text
    assert "Key made" in page.text  # its changes
    assert browser.submit(f"/keys/{key_id}/suspend").status_code == 303


def test_banners_come_and_go_live(without_redis: tuple[Server, Browser, str]) -> None:
    """An open page says what is wrong, and no longer when it is not: the stream has the banners too."""
    server, _, key_id = without_redis
    browser = Browser(f"http://{server.settings.operations_listen}/console").sign_in(server.tokens[Role.VIEWER])
    soon(lambda: "Redis refuses connections" in browser.get("/keys").text)
    for path in ("/overview/live", f"/keys/{key_id}/live", "/alerts/live"):
        with browser.client.stream("GET", f"{browser.base}{path}") as answer:
            first = next(line for line in answer.iter_lines() if line.startswith("data: "))
        assert ". Limits are kept by each server alone" in json.loads(first.removeprefix("data: "))["banners"]
    browser.client.close()


def test_a_dead_store_is_named_once_and_old_figures_have_their_time() -> None:
    """With Redis down, the answer says what that does to calls, once, and of when its figures are."""
    redis = Component("Redis", State.DOWN, "does not answer", "", 0, "calls are decided by on_store_failure")
    old = Component("Policies", State.DEGRADED, "9 s old", "", 0, "changes are not in force yet")
    banner = "".join(piece.text for piece in healthy(Health([old, redis], 0), None, 0))
    assert banner.startswith("Redis does not answer: calls are decided by on_store_failure. ")
    assert banner.endswith(" Policies 9 s old: changes are not in force yet. ")


async def test_a_slow_store_is_degraded_and_not_down() -> None:
    """It has its own words, and what it does to calls; one that cannot be reached is down."""

    async def slow() -> None:
        raise SlowStore("answers in 52 ms, slower than RATELIMIT_STORE_SLOW (20 ms)")

    async def away() -> None:
        raise StoreUnavailable("Postgres is unavailable")

    async def scrape() -> bytes:
        return b""

    health = ServerHealth(
        cast(Services, SimpleNamespace(alerts=SimpleNamespace(webhook=""))),
        SystemClock(),
        enforcement=cast(Enforcement, SimpleNamespace(off=Switch())),
        probes={"redis": slow, "postgres": away},
        describe=partial(describe_fault, Settings()),
        scrape=scrape,
        workers=lambda: 1,
        wanted=1,
        degraded=dict,
        effects=EFFECTS,
    )
    found = {each.name: (each.state, each.value, each.effect) for each in (await health.read()).components}
    assert found["Redis"] == (
        State.DEGRADED,
        "answers in 52 ms, slower than RATELIMIT_STORE_SLOW (20 ms)",
        "calls are decided by on_store_failure",
    )
    assert found["Postgres"][:2] == (State.DOWN, "does not answer")


def test_the_loudest_banner_comes_first() -> None:
    """What is not done at all goes before what is done in another way."""
    faults = {"redis": "answers in 52 ms, slower than RATELIMIT_STORE_SLOW (20 ms)", "postgres": "refuses connections"}
    assert [(banner.kind, banner.title) for banner in banners_of(faults, {})] == [
        ("down", "Postgres refuses connections. Changes are refused."),
        ("fault", f"Redis {faults['redis']}. Limits are kept by each server alone, or not at all."),
    ]
    assert banners_of({}, {}) == []
    degraded = {"feed": "changes of the last 7 s are not in force", "store": "it is slow"}
    assert [banner.text for banner in banners_of({"redis": "does not answer"}, degraded)][1:] == [
        "Changes of the last 7 s are not in force."
    ]
    assert [banner.kind for banner in banners_of({}, degraded)] == ["fault", "fault"]
