"""The console of a server, wired from its planes."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import structlog
from starlette.types import ASGIApp

from ratelimit_service.bootstrap import Planes
from ratelimit_service.clock import SystemClock
from ratelimit_service.operations.readiness import CONTROL_EFFECTS, EFFECTS
from ratelimit_service.server.store_faults import describe_fault
from ratelimit_service.settings import Settings

_DECISION_SERVER: Final = "HOST:50051"
"""Shown where calls of a decision are, on a control plane: which server decides is not known there."""

_log = structlog.stdlib.get_logger(__name__)


def open_console(  # noqa: PLR0913  what it shows
    planes: Planes,
    settings: Settings,
    *,
    faults: Callable[[], Mapping[str, str]],
    degraded: Callable[[], Mapping[str, str]],
    scrape: Callable[[], Awaitable[bytes]],
    workers: Callable[[], int],
) -> ASGIApp | None:
    """The console, or None where it is not installed. It is served below `/console`, which is its `root_path`.

    `faults` says what is wrong with the stores that do not answer in time, and `degraded`, by mode, why workers do not
    decide as they should. `scrape` returns the metrics of this server, and `workers` counts those that serve.
    """
    try:
        # jinja2 comes with the extra `console` only.
        from ratelimit_service.console.app import ConsoleConfig, ConsoleServices, console_app  # noqa: PLC0415
        from ratelimit_service.console.security.hosts import parse_hosts  # noqa: PLC0415
        from ratelimit_service.server.console_health import ServerHealth  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _log.warning("no console; install ratelimit-service[console]", missing=error.name)
        return None
    services = planes.services
    clock = SystemClock()
    return console_app(
        ConsoleServices(
            keys=services.keys,
            bulk_keys=services.bulk_keys,
            plans=services.plans,
            overrides=services.overrides,
            rules=services.rules,
            audit=services.audit,
            sessions=services.sessions,
            tokens=planes.tokens,
            usage=services.usage,
            engine=planes.engine,
            health=ServerHealth(
                services,
                clock,
                enforcement=planes.enforcement,
                probes=planes.probes,
                describe=partial(describe_fault, settings),
                scrape=scrape,
                workers=workers,
                wanted=settings.workers,
                degraded=degraded,
                effects=EFFECTS if settings.decides else CONTROL_EFFECTS,
            ),
            alerts=services.alerts,
            simulations=services.simulations,
            totals=services.totals,
            clock=clock,
            faults=faults,
            degraded=degraded,
            unenforced=planes.enforcement.explained,
        ),
        ConsoleConfig(
            environment=settings.key_environment,
            server=settings.listen if settings.decides else _DECISION_SERVER,
            admin_server=settings.admin_listen or settings.listen,
            plaintext=settings.tls_certificate is None,
            listen=(settings.operations_listen, settings.console_listen),
            hosts=parse_hosts(settings.console_hosts),
        ),
    )
