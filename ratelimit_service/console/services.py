"""What the console is made of: the services that its pages use, and what it has to know about the server."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ratelimit_service.alerts.service import AlertService
from ratelimit_service.api.authentication import Tokens
from ratelimit_service.console.health import HealthReader
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.audit import AuditService
from ratelimit_service.management.bulk_keys import BulkKeyService
from ratelimit_service.management.keys import KeyService
from ratelimit_service.management.overrides import OverrideService
from ratelimit_service.management.plans import PlanService
from ratelimit_service.management.rules import RulesService
from ratelimit_service.management.sessions import SessionService
from ratelimit_service.management.totals import TotalsReader
from ratelimit_service.usage.query import UsageQueries
from ratelimit_service.usage.simulation import SimulationService


@dataclass(frozen=True, slots=True)
class ConsoleServices:
    """The services, called in this process: never by gRPC, so that a page needs no token of its own."""

    keys: KeyService
    bulk_keys: BulkKeyService
    plans: PlanService
    overrides: OverrideService
    rules: RulesService
    audit: AuditService
    sessions: SessionService
    tokens: Tokens
    usage: UsageQueries
    engine: DecisionEngine
    health: HealthReader
    alerts: AlertService
    simulations: SimulationService
    totals: TotalsReader
    clock: Clock
    faults: Callable[[], Mapping[str, str]] = dict
    """What is wrong now with the components `postgres` and `redis`, as what follows their names in a sentence."""
    degraded: Callable[[], Mapping[str, str]] = dict
    """Why workers do not decide as they should, by the mode in which they are degraded."""
    unenforced: Callable[[], Collection[str]] = tuple
    """Why no limit refuses calls now, in words; empty while they do."""


@dataclass(frozen=True, slots=True)
class ConsoleConfig:
    """What the console shows of the server and accepts from browsers.

    `environment` is the <env> in keys. `server` is the address of the gRPC port, and `admin_server` that of the admin
    methods, for the commands in the pages; `plaintext` is whether they are without TLS.
    `listen` are the addresses that the console is served on, and `hosts` further names under which browsers may ask
    for it.
    """

    environment: str
    server: str
    admin_server: str
    plaintext: bool
    listen: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
