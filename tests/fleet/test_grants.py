"""Gateways that decide by grants, on three servers: as exact as one bucket, while some die and replies are lost.

`make test-grants` runs them at full size, with the Python and the Go client, and prints the figures.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import grpc
import psutil
import pytest

from faults.proxy import FaultProxy
from fixtures.served import Server
from fleet.conftest import ROOT, Fleet
from fleet.granted import PYTHON, Bucket, Gateways, Load, Running, Seen
from fleet.patience import patiently
from fleet.revocations import Delay, delays, opened, percentile
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

FULL: Final = os.environ.get("RATELIMIT_GRANTS") == "full"
SECONDS: Final = 30.0 if FULL else 2.0
BUCKET: Final = Bucket(1_000, 1_000) if FULL else Bucket(300, 300)
CLIENTS: Final = 10 if FULL else 3
OVER: Final = 1.5 if FULL else 2.5
"""Times the rate, so that the bucket is empty soon."""
CHECKS: Final = 0.5 if FULL else 1.0
"""The same, of checks beside 0.9 times it."""
RATIO: Final = 0.99 if FULL else 0.8
"""Of what one bucket admits. CI's machine has other work."""
_NUMBERS: Final = count()
LOST: Final = 100 if FULL else 6
"""Replies, in place of which connections are cut."""
GO: Final = ROOT / "clients" / "go"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, ...]]]:
    """The programs with gateways, by the language of their client."""
    by_language = {"Python": [PYTHON]}
    if FULL:
        program = tmp_path_factory.mktemp("go") / "gateways"
        subprocess.run(["go", "build", "-o", program, "./internal/gateways"], cwd=GO, check=True)
        by_language |= {"Go": [(str(program),)]}
    return by_language


@pytest.fixture
def gateways(fleet: Fleet, tmp_path: Path) -> Gateways:
    """Gateways of a key of the test's own, on all servers."""
    server, name = fleet.servers[0], f"granted-{next(_NUMBERS)}"
    bucket = {"capacity": BUCKET.capacity, "refill_tokens": BUCKET.rate, "refill_period": {"seconds": 1}}
    plan = {"name": name, "limits": [{"name": "burst", "token_bucket": bucket}], "on_store_failure": "DENY"}
    request = ManagePlanRequest(create={"plan": plan})
    patiently(lambda: server.manage().ManagePlan(request, metadata=server.as_admin))
    _, api_key = patiently(lambda: server.key(name))
    for each in fleet.servers:
        read(each, api_key)
    return Gateways([one.address for one in fleet.servers], server.tokens[Role.GATEWAY], api_key, tmp_path)


def read(server: Server, api_key: str) -> None:
    """Have a server read a key. Nothing is charged."""
    request = CheckLimitRequest(api_key=api_key, cost=0)
    patiently(lambda: RateLimitServiceStub(server.channel).CheckLimit(request, timeout=5))


@contextmanager
def proxied(gateways: Gateways) -> Iterator[tuple[Gateways, list[FaultProxy]]]:
    """The same gateways behind proxies, which can lose replies of the servers."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(int(target.rpartition(":")[2]))) for target in gateways.targets]
        yield replace(gateways, targets=[f"127.0.0.1:{proxy.port}" for proxy in proxies]), proxies


def report(what: str, seen: Seen) -> None:
    """Print the figures."""
    print(f"{what}: {seen.figures()}")  # noqa: T201  for whoever reads the figures, or a failure


def assert_within(seen: Seen) -> None:
    """No more was spent than the limit admits."""
    in_all, in_window = seen.excess()
    assert in_all <= 1e-6
    assert in_window <= 1e-6


LANGUAGES = ("Python", "Go") if FULL else ("Python",)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("times", [0.9, 1.5] if FULL else [0.9])
@pytest.mark.parametrize("clients", [3, 10, 100] if FULL else [CLIENTS])
def test_gateways_are_as_exact_as_one_bucket(
    gateways: Gateways, programs: dict[str, list[tuple[str, ...]]], clients: int, times: float, language: str
) -> None:
    """Never more than the limit, and nearly as much as one bucket; at 0.9 of it with few calls of the service."""
    gateways = replace(gateways, programs=programs[language])
    seen = gateways.run(BUCKET, Load(clients, times, SECONDS, bursts=FULL))
    report(f"{language}, {clients} clients, load {times}", seen)
    assert_within(seen)
    assert seen.ratio() >= RATIO
    if clients == CLIENTS and times == 0.9:
        assert seen.per_thousand() <= (150 if FULL else 700)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_more_is_spent_when_gateways_die_and_replies_are_lost(
    gateways: Gateways, programs: dict[str, list[tuple[str, ...]]], language: str
) -> None:
    """A third is killed with all that it holds, among them that with the most calls."""
    with proxied(replace(gateways, programs=programs[language])) as (behind, proxies):

        def break_some(running: Running) -> None:
            for lost in range(LOST):
                running.sleep_until(SECONDS * lost / LOST)
                proxies[lost % len(proxies)].lose_next_reply()
                if lost == LOST // 2:
                    running.kill(0)

        seen = behind.run(BUCKET, Load(CLIENTS, OVER, SECONDS, bursts=FULL), break_some)
        lost = sum(len(proxy.lost) for proxy in proxies)
    report(f"{language}, {CLIENTS} clients, load {OVER}, a third killed, {lost} replies lost", seen)
    assert_within(seen)
    assert lost
    assert seen.ratio() >= RATIO


def test_checks_beside_grants_are_exact(fleet: Fleet, gateways: Gateways) -> None:
    """Calls that servers decide take from the same bucket: all together it is one."""
    checked = Seen(BUCKET)

    def check(running: Running) -> None:
        asyncio.run(check_at(fleet.servers, gateways.api_key, running, checked))

    seen = gateways.run(BUCKET, Load(CLIENTS, 0.9, SECONDS, bursts=FULL), check)
    checks = len(checked.allowed)
    seen.add(checked)
    report(f"{CLIENTS} clients, load 0.9, and {checks} checks of {checked.calls} allowed beside them", seen)
    assert_within(seen)
    assert checks
    assert seen.ratio() >= RATIO


async def check_at(servers: Sequence[Server], api_key: str, running: Running, checked: Seen) -> None:
    """Have each server check as many calls as it takes for CHECKS times the rate in sum."""
    gap = len(servers) / (BUCKET.rate * CHECKS)

    async def call(stub: RateLimitServiceStub) -> None:
        sent = running.now()
        try:
            response = await stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)
        except grpc.aio.AioRpcError:  # refused under overload, before it was charged
            return
        checked.note(sent, running.now(), allowed=response.allowed)

    async def at(server: Server) -> None:
        calls = []
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = RateLimitServiceStub(channel)
            due = 0.0
            while due < running.load.seconds:
                await asyncio.sleep(max(0.0, due - running.now()))
                calls.append(asyncio.create_task(call(stub)))
                due += gap
            await asyncio.gather(*calls)

    await asyncio.gather(*map(at, servers))


AWAY: Final = (0.3, 0.7)
"""From and until when something is away, as parts of the time."""


@pytest.mark.parametrize("what", ["store", "service"])
def test_held_units_run_out_while_something_is_away(fleet: Fleet, gateways: Gateways, what: str) -> None:
    """Then calls are denied, as configured. What is back does late what it was asked for: nothing is spent twice."""
    if what == "store":
        processes = [psutil.Process(fleet.valkey.pid)]
    else:
        tops = [psutil.Process(server.process.pid) for server in fleet.servers]
        processes = [each for top in tops for each in (top, *top.children(recursive=True))]
    away: list[float] = []

    def suspend(running: Running) -> None:
        for part, change in zip(AWAY, (psutil.Process.suspend, psutil.Process.resume), strict=True):
            running.sleep_until(part * running.load.seconds)
            if change is psutil.Process.resume:
                away.append(running.now())
            for process in processes:
                change(process)
            if change is psutil.Process.suspend:
                away.append(running.now())

    load = Load(CLIENTS, 0.9, 1.5 * SECONDS, bursts=False, deadline=0.3)
    seen = gateways.run(BUCKET, load, suspend)
    report(f"{what} away from {away[0]:.2f} s until {away[1]:.2f} s", seen)
    assert_within(seen)
    out = [sent for sent, _ in seen.allowed if away[0] + BUCKET.ttl < sent < away[1] - load.deadline]
    assert not out
    assert [sent for sent, _ in seen.allowed if sent > away[1]]


REVOCATIONS: Final = (20, 5) if FULL else (1, 4)
"""Rounds, and keys of each."""
KNOWN_BEFORE: Final = 0.3  # seconds; a grant of these keys lasts for one


async def test_a_revoked_key_is_not_spent_any_more(fleet: Fleet) -> None:
    """With a stream about when the server knows, without one when the grants of then end."""
    first = fleet.servers[0]
    found: dict[bool, list[Delay]] = {True: [], False: []}
    async with opened(fleet.servers) as gateways:
        for _ in range(REVOCATIONS[0]):
            keys = [patiently(lambda: first.key("wide")) for _ in range(REVOCATIONS[1])]
            for server in fleet.servers:
                for _, secret in keys:
                    await asyncio.to_thread(read, server, secret)
            for each in await asyncio.gather(*(delays(first, gateways, *key) for key in keys)):
                for gateway, delay in zip(gateways, each, strict=True):
                    found[gateway.pushed].append(delay)
    known = {}
    for pushed, all_delays in found.items():
        revoked, known[pushed] = zip(*all_delays, strict=True)
        line = f"{len(revoked)} revocations {'with' if pushed else 'without'} push: spent after it until "
        line += f"p50 {percentile(revoked, 0.5):.2f} s, p99 {percentile(revoked, 0.99):.2f} s, {max(revoked):.2f} s; "
        line += f"after the server knew p99 {percentile(known[pushed], 0.99):.2f} s, {max(known[pushed]):.2f} s"
        print(line)  # noqa: T201  for whoever reads the figures, or a failure
        assert max(known[pushed]) <= 1.0
        assert not FULL or not pushed or percentile(revoked, 0.99) <= 1.0
    assert percentile(known[True], 0.5) <= KNOWN_BEFORE
    assert max(known[False]) > percentile(known[True], 0.5)
