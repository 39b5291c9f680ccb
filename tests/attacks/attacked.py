"""An attack with a victim beside it: `with attacked(server) as report: report.attack(function)`."""

import asyncio
import inspect
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

from attacks.processes import end, fork
from attacks.sizes import (
    ATTACK_SECONDS,
    BEFORE_SECONDS,
    CI_P99_MS,
    FULL,
    LATENCY_FACTOR,
    MEMORY_MB,
    SETTLE_SECONDS,
    TOLERATED,
)
from attacks.victim import Call, Figures, Victim
from attacks.watch import Counters, Sample, Watch
from fixtures.served import Server
from ratelimit_service.management.tokens import Role

CONNECTIONS: Final = 3
WARM_UP_SECONDS: Final = 3.0 if FULL else 0.1
NICENESS: Final = 5
"""Of attackers: they would have a machine of their own, and here they share two cores with server and victim."""

DESCRIPTORS: Final = 20
"""By which descriptors may have grown once an attack is over: connections of the stores, and of the tests."""

_NOTHING = Sample(0.0, 0, 0)


@dataclass
class Target:
    """A server to attack, alone on its stores."""

    server: Server
    watch: Watch
    transport: str
    api_key: str = ""
    """The victim's key, created at the first attack on a plan that never denies."""
    before: Figures | None = None
    """What the victim met when nobody attacked, measured once for each server."""

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return self.server.address


@dataclass
class Report:
    """What an attack did to the victim, the server and its stores. Complete when the block of `attacked` has ended."""

    name: str
    target: Target
    before: Figures = field(default_factory=Figures)
    during: Figures = field(default_factory=Figures)
    memory_before: Sample = _NOTHING
    peak: Sample = _NOTHING
    memory_after: Sample = _NOTHING
    stores: Counters = field(default_factory=lambda: Counters({}, {}))
    """What the stores did during the attack, for the victim too."""
    seconds: float = 0.0
    """Length of the attack."""
    attackers: Counter[str] = field(default_factory=Counter)
    """What the attackers counted, together."""
    span: tuple[float, float] = (0.0, 0.0)
    """When the attack began and ended, in monotonic seconds."""
    memory_mb: float = MEMORY_MB
    """By which resident memory may grow."""

    def attack(
        self,
        function: Callable[..., Any],
        *arguments: object,
        connections: int = CONNECTIONS,
        seconds: float = ATTACK_SECONDS,
    ) -> Counter[str]:
        """Run `function(address, until, *arguments)` in so many processes of their own, and return what they counted.

        FUNCTION, sync or async, stands in a module, returns when `time.monotonic()` has reached `until`, and may return
        a mapping of counts. Each process opens one connection, unless the attack is about connections. The processes
        are started first; only then the attack begins. Raises AssertionError, with the traceback, when one fails.
        """
        started = [fork(_attacker, function, self.target.address, arguments) for _ in range(connections)]
        pipes = [pipe for _, pipe in started]
        try:
            for pipe in pipes:
                pipe.recv()
            began = time.monotonic()
            for pipe in pipes:
                pipe.send(began + seconds)
            found: Counter[str] = Counter()
            for pipe in pipes:
                assert pipe.poll(seconds + 60), "an attacker does not end"
                counts, failure = pipe.recv()
                assert not failure, failure
                found.update(counts)
            self.span = (began, time.monotonic())
        finally:
            for process, pipe in started:
                end(process, pipe)
        self.attackers.update(found)
        return found

    @property
    def memory_growth_mb(self) -> float:
        """By how much resident memory rose at most."""
        return self.peak.memory_mb - self.memory_before.memory_mb

    @property
    def p99_bar_ms(self) -> float:
        """The victim's p99 may not exceed this: twice what it was before + 2 ms; in CI ten times that, or 600 ms."""
        return max(LATENCY_FACTOR * (2 * self.before.p99_ms + 2), CI_P99_MS)

    def statements_per_second(self) -> float:
        """The statements of Postgres in a second of the attack, whoever caused them."""
        return self.stores.all_statements / max(self.seconds, 1e-9)

    def commands_per_second(self) -> float:
        """The commands of Redis in a second of the attack, whoever caused them."""
        return self.stores.all_commands / max(self.seconds, 1e-9)

    def row(self) -> Mapping[str, str]:
        """Its line of the table that `make attacks` prints."""
        return {
            "attack": self.name,
            "transport": self.target.transport,
            "p50 before": f"{self.before.p50_ms:.2f}",
            "p50": f"{self.during.p50_ms:.2f}",
            "p99 before": f"{self.before.p99_ms:.2f}",
            "p99": f"{self.during.p99_ms:.2f}",
            "max": f"{self.during.max_ms:.0f}",
            "errors": str(self.during.errors.total()),
            "degraded": str(self.during.degraded),
            "denied": str(self.during.denied),
            "MiB": f"+{self.memory_growth_mb:.0f}",
            "MiB after": f"{self.memory_after.memory_mb - self.memory_before.memory_mb:+.0f}",
            "fds": f"{self.memory_before.descriptors}>{self.peak.descriptors}>{self.memory_after.descriptors}",
            "pg/s": f"{self.statements_per_second():.1f}",
            "redis/s": f"{self.commands_per_second():.0f}",
            "attackers": " ".join(f"{name}={count}" for name, count in sorted(self.attackers.items())),
        }

    def assert_held(self) -> None:
        """The victim noticed little: no denial; errors, DEGRADED answers, p99 and memory within their bounds."""
        shown = dict(self.row())
        assert self.during.calls >= 0.9 * (self.span[1] - self.span[0]) * 200 - 10, shown
        assert self.during.errors.total() + self.during.degraded <= TOLERATED * self.during.calls, (
            self.during.errors,
            shown,
        )
        assert self.during.denied == 0, shown
        assert self.during.p99_ms <= self.p99_bar_ms, shown
        assert self.memory_growth_mb <= self.memory_mb, shown
        assert self.memory_after.memory_mb - self.memory_before.memory_mb <= self.memory_mb, shown


REPORTS: list[Report] = []
"""Those of this run, for the table."""


@contextmanager
def attacked(target: Target, name: str = "", *, check: bool = True, memory_mb: float = MEMORY_MB) -> Iterator[Report]:
    """Run the block, which attacks, with a victim beside it. At its end the report is complete, and must hold.

    The attack lasts as long as `report.attack`, or, if the block attacks by other means, as long as the block. NAME
    stands in the table; by default it is the test's. With `check=False` the bounds are left to the caller. MEMORY_MB is
    by how much memory may grow.
    """
    report = Report(name or _test_name(), target, memory_mb=memory_mb)
    server, watch = target.server, target.watch
    if not target.api_key:
        _, target.api_key = server.key("wide")
    token = server.tokens[Role.GATEWAY] if server.settings.protect_checks else ""
    victim = Victim(server.address, target.api_key, token=token)
    calls: list[Call] = []
    stopped = False
    try:
        time.sleep(WARM_UP_SECONDS)
        quiet = time.monotonic()
        if target.before is None:
            time.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        stores = watch.counters()
        report.memory_before = watch.sample()
        watch.start()
        try:
            yield report
        finally:
            ended = time.monotonic()
            report.peak = watch.stop()
        report.stores = watch.counters().since(stores)
        report.seconds = time.monotonic() - began
        report.span = report.span if report.span[1] else (began, ended)
        report.memory_after = _settle(watch, report.memory_before, memory_mb)
        calls, stopped = victim.stop(), True
    finally:
        if not stopped:
            with suppress(Exception):
                victim.stop()
    if began - quiet >= BEFORE_SECONDS:
        target.before = Figures.of([call for call in calls if quiet <= call.due < began])
    assert target.before is not None
    report.before = target.before
    report.during = Figures.of([call for call in calls if report.span[0] <= call.due < report.span[1]])
    REPORTS.append(report)
    if check:
        report.assert_held()


def _settle(watch: Watch, before: Sample, memory_mb: float) -> Sample:
    """Wait until memory and descriptors are again what they were, or within their bounds, as long as that may take."""
    until = time.monotonic() + SETTLE_SECONDS
    while not _settled(sample := watch.sample(), before, memory_mb) and time.monotonic() < until:
        time.sleep(0.25)
    return sample


def _settled(sample: Sample, before: Sample, memory_mb: float) -> bool:
    return sample.memory_mb <= before.memory_mb + memory_mb and sample.descriptors <= before.descriptors + DESCRIPTORS


def _attacker(pipe: Connection, function: Callable[..., Any], address: str, arguments: tuple[object, ...]) -> None:
    """Run in a process of its own."""
    os.nice(NICENESS)
    pipe.send(None)
    until = pipe.recv()
    try:
        result = function(address, until, *arguments)
        counts = asyncio.run(result) if inspect.iscoroutine(result) else result
    except BaseException:  # noqa: BLE001  the parent reports it
        pipe.send(({}, traceback.format_exc()))
    else:
        pipe.send((counts or {}, ""))


def _test_name() -> str:
    """The name of the test that runs."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("::")[2].partition("[")[0]
