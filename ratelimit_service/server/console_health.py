"""The state of this server's components, for the console: probes of the stores, and what its processes count."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from ratelimit_service.bootstrap import Services
from ratelimit_service.console.formats import duration
from ratelimit_service.console.health import Component, Health, State
from ratelimit_service.decision.enforcement import Enforcement
from ratelimit_service.decision.feed_age import OLD_SECONDS
from ratelimit_service.decision.limit import MICRO, Mode
from ratelimit_service.decision.ports import Clock, SlowStore
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.paging import Paging
from ratelimit_service.operations.readiness import Describe
from ratelimit_service.transport.grpcio.health import POSTGRES, REDIS, Probe

_PROBE_SECONDS: Final = 1.0
_SHOWN: Final = frozenset({"feed", "store"})
"""Modes of degradation that other components show: the age of policies, and Redis."""

_BEHIND: Final = 180.0
"""Seconds from which on usage counts as late: it is queryable after 75 s as a rule."""


class _Answer(NamedTuple):
    """What came of the probe of a store, and in words."""

    state: State
    words: str


class ServerHealth:
    """Reads the components of one server. Implements `console.health.HealthReader`."""

    def __init__(  # noqa: PLR0913  what it reads
        self,
        services: Services,
        clock: Clock,
        *,
        enforcement: Enforcement,
        probes: Mapping[str, Probe],
        describe: Describe,
        scrape: Callable[[], Awaitable[bytes]],
        workers: Callable[[], int],
        wanted: int,
        degraded: Callable[[], Mapping[str, str]],
        effects: Mapping[str, str],
    ) -> None:
        """SCRAPE returns the metrics of all processes. WORKERS counts those that serve; WANTED of them should.

        DESCRIBE says what is wrong with a store whose PROBE has failed, as what follows its name in a sentence.
        DEGRADED says why workers do not decide as they should, by mode. EFFECTS say what it does that a store does not
        answer, or that no worker serves.
        """
        self._services = services
        self._switch = enforcement
        self._probes = probes
        self._describe = describe
        self._scrape = scrape
        self._workers = workers
        self._wanted = wanted
        self._degraded = degraded
        self._effects = effects
        self._clock = clock

    async def read(self) -> Health:
        """Read all of them. Never raises."""
        redis, postgres, metrics, webhook, enforcement = await asyncio.gather(
            self._ask(REDIS),
            self._ask(POSTGRES),
            self._metrics(),
            self._webhook(),
            self._enforcement(),
        )
        now_us = self._clock.now_us()
        lag = metrics.get("ratelimit_usage_lag_seconds")
        components = [
            self._store("Redis", REDIS, redis, now_us, breaker_open=bool(metrics.get("ratelimit_store_breaker_open"))),
            self._store("Postgres", POSTGRES, postgres, now_us),
            self._serving(now_us),
            _policies(metrics.get("ratelimit_change_feed_age_seconds"), now_us),
            _usage(lag, metrics, now_us),
            webhook,
            enforcement,
            *(
                Component(mode.capitalize(), State.DEGRADED, "degraded", "", now_us, reason)
                for mode, reason in self._degraded().items()
                if mode not in _SHOWN
            ),
        ]
        return Health(components, None if lag is None else round(lag * MICRO))

    def _serving(self, now_us: int) -> Component:
        serving = self._workers()
        state = State.OK if serving >= self._wanted else State.DEGRADED if serving else State.DOWN
        effect = {
            State.OK: "",
            State.DEGRADED: "the workers that serve have more to do",
            State.DOWN: self._effects["workers"],
        }[state]
        return Component("Workers", state, f"{serving} of {self._wanted}", "of this server", now_us, effect)

    def _store(self, title: str, name: str, answer: _Answer, now_us: int, *, breaker_open: bool = False) -> Component:
        if answer.state is not State.OK:
            return Component(title, answer.state, answer.words, "", now_us, self._effects[name])
        if breaker_open:
            return Component(title, State.DEGRADED, "breaker open", "answers again", now_us, self._effects[name])
        return Component(title, State.OK, answer.words, "", now_us)

    async def _ask(self, name: str) -> _Answer:
        """Whether a store answers its probe, how fast, and else what is wrong with it."""
        began = perf_counter()
        try:
            await asyncio.wait_for(self._probes[name](), _PROBE_SECONDS)
        except SlowStore as error:  # it works, and nobody waits for it
            return _Answer(State.DEGRADED, await self._describe(name, error))
        except Exception as error:  # noqa: BLE001  for whatever reason, the component does not answer
            return _Answer(State.DOWN, await self._describe(name, error))
        return _Answer(State.OK, f"answers in {_short(round((perf_counter() - began) * MICRO))}")

    async def _webhook(self) -> Component:
        alerts, now_us = self._services.alerts, self._clock.now_us()
        if not alerts.webhook:
            return Component("Alert webhook", State.OK, "not set up", "alerts stand in the console", now_us)
        try:
            number, first = await alerts.waiting()
        except ServiceError:
            return Component("Alert webhook", State.DEGRADED, "not known", "Postgres does not answer", now_us)
        if any(delivery.attempts for delivery in first):
            effect = "alerts do not arrive; decisions are not affected"
            return Component("Alert webhook", State.DEGRADED, f"retrying, {number:,} queued", "", now_us, effect)
        return Component("Alert webhook", State.OK, f"{number:,} queued" if number else "all delivered", "", now_us)

    async def _enforcement(self) -> Component:
        now_us = self._clock.now_us()
        if (off := self._switch.off) is not None:
            return Component("Enforcement", State.DEGRADED, "off", f"by {off.actor}", now_us, off.summary())
        try:
            plans = (await self._services.plans.list(Paging(page_size=1_000))).items
        except ServiceError:
            return Component("Enforcement", State.OK, "on", "limits as last read", now_us)
        shadows = sum(limit.mode is Mode.SHADOW for plan in plans for limit in plan.limits)
        words = (
            f"{shadows} {'limit' if shadows == 1 else 'limits'} of plans in shadow" if shadows else "no limit in shadow"
        )
        return Component("Enforcement", State.OK, "on", words, now_us)

    async def _metrics(self) -> dict[str, float]:
        """Gauges and counters without labels, and the sum over labels of those that have some."""
        text = (await self._scrape()).decode()

        def parse() -> dict[str, float]:
            found: dict[str, float] = {}
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
            return found

        return await asyncio.to_thread(parse)


def _policies(age: float | None, now_us: int) -> Component:
    if age is None:
        return Component("Policies", State.DEGRADED, "age not known", "no worker reports", now_us)
    late = age >= OLD_SECONDS
    effect = "changes of keys and plans are not in force yet" if late else ""
    state = State.DEGRADED if late else State.OK
    return Component("Policies", state, f"{duration(round(age * MICRO))} old", "oldest of all workers", now_us, effect)


def _usage(lag: float | None, metrics: Mapping[str, float], now_us: int) -> Component:
    if lag is None:
        return Component("Usage drain", State.DEGRADED, "not known", "no process reports", now_us, "figures are old")
    late = lag > _BEHIND
    lost = sum(metrics.get(f"ratelimit_usage_{name}", 0.0) for name in ("lost_calls_total", "store_lost_calls"))
    behind = duration(round(lag) * MICRO)
    effect = f"figures are {behind} old; decisions are not affected" if late else ""
    state = State.DEGRADED if late or lost else State.OK
    return Component("Usage drain", state, f"{behind} behind", f"{lost:,.0f} lost", now_us, effect)


def _short(took_us: int) -> str:
    return f"{took_us / 1_000:.1f} ms" if took_us < MICRO else duration(took_us)
