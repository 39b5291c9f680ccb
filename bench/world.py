"""The stores that a benchmark runs on, and the keys in them."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import SecretStr
from sqlalchemy import create_engine, insert, select

from ratelimit_service.bootstrap import open_services
from ratelimit_service.decision.api_key import ApiKey, Peppers
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode
from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.management.tokens import LOCAL, Role
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.postgres.tables import key_secrets, keys, plans
from ratelimit_service.settings import Settings

_PLENTY: Final = TokenBucket(capacity=1_000_000_000, refill_tokens=1_000_000_000, refill_period_us=MICRO)
_PLANS: Final = {
    "open": (Limit("burst", _PLENTY),),
    "two-limits": (Limit("burst", _PLENTY), Limit("daily", Quota(MAX_TOKENS, Window.DAY))),
    "denied": (Limit("burst", TokenBucket(capacity=1, refill_tokens=1, refill_period_us=86_400 * MICRO)),),
}
_ROWS = 5_000

QUOTAS: Final = "quotas"
"""A domain, and the key of its only rule: each value has plenty."""

DOMAIN: Final = "bench"
USER: Final = "user"
DENIED: Final = "denied"
"""A domain, the key of its rules, and its value that is denied after the first request of a day: any other has plenty.
`peer.yaml` has the same."""

_PLENTY_A_DAY: Final = 1_000_000_000


class World(NamedTuple):
    """Settings for the stores, process and port of Valkey, and keys: many on plan open, one on each of the others.

    `gateway_token` is a token of role gateway.
    """

    settings: Settings
    valkey_pid: int
    valkey_port: int
    keys: list[str]
    two_limits: str
    denied: str
    gateway_token: str


@contextmanager
def open_world(count: int) -> Iterator[World]:
    """Start the stores with COUNT keys of COUNT subjects on plan open. Everything is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="ratelimit-bench-") as folder:
        Path(folder).chmod(0o755)  # for Postgres, which never runs as root
        postgres, valkey = EmbeddedPostgres(Path(folder, "postgres")), EmbeddedValkey(Path(folder, "valkey"))
        with ExitStack() as stack:
            stack.callback(postgres.stop)
            stack.callback(valkey.stop)
            postgres.start()
            valkey.start()
            settings = Settings(
                database_url=SecretStr(postgres.url),
                redis_url=SecretStr(valkey.url),
                peppers=SecretStr(Peppers.generate()),
                policy_cache_size=2 * count,  # room for all, and for those of the small plans
                log_level="warning",
                operations_listen="",
            )
            upgrade(postgres.url)
            gateway_token = asyncio.run(_make_plans(settings))
            made = _make_keys(settings, {"open": count, "two-limits": 1, "denied": 1})
            yield World(
                settings, valkey.pid, valkey.port, made["open"], made["two-limits"][0], made["denied"][0], gateway_token
            )


async def _make_plans(settings: Settings) -> str:
    """Make the plans and the rules, and return a token of role gateway."""
    async with open_services(settings) as services:
        await services.tokens.create("bench", Role.ADMIN)
        for name, limits in _PLANS.items():
            draft = PlanDraft(name=name, limits=limits, on_store_failure=OnStoreFailure.DENY, description="")
            await services.plans.create(LOCAL.name, draft)
        rules = DomainRules(QUOTAS, (RuleNode(QUOTAS, limits=(RuleLimit(_PLENTY, "plenty"),)),))
        await services.rules.replace(LOCAL.name, rules)
        await services.rules.replace(LOCAL.name, rules_of_users())
        return await services.tokens.create("gateway", Role.GATEWAY)


def rules_of_users() -> DomainRules:
    """Those of DOMAIN."""

    def node(value: str, amount: int) -> RuleNode:
        return RuleNode(USER, value, limits=(RuleLimit(Quota(amount, Window.DAY)),))

    return DomainRules(DOMAIN, (node("", _PLENTY_A_DAY), node(DENIED, 1)))


def _make_keys(settings: Settings, counts: dict[str, int]) -> dict[str, list[str]]:
    """Insert the rows directly: the service would take minutes for as many."""
    peppers = Peppers.parse(settings.peppers.get_secret_value())
    url = settings.database_url.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url)
    made: dict[str, list[str]] = {}
    with engine.begin() as connection:
        plan_ids = dict(connection.execute(select(plans.c.name, plans.c.plan_id)).tuples().all())
        for plan, count in counts.items():
            fresh = [ApiKey.generate("bench") for _ in range(count)]
            made[plan] = [str(api_key) for api_key in fresh]
            for start in range(0, count, _ROWS):
                part = fresh[start : start + _ROWS]
                connection.execute(insert(keys), [_key_row(api_key, plan_ids[plan]) for api_key in part])
                connection.execute(insert(key_secrets), [_secret_row(api_key, peppers) for api_key in part])
    engine.dispose()
    return made


def _key_row(api_key: ApiKey, plan_id: int) -> dict[str, object]:
    return {
        "key_id": api_key.key_id,
        "subject": f"subject of {api_key.key_id}",
        "plan_id": plan_id,
        "state": "active",
        "description": "",
        "revision": 1,
        "create_time": 0,
        "update_time": 0,
    }


def _secret_row(api_key: ApiKey, peppers: Peppers) -> dict[str, object]:
    stored = peppers.hash(api_key)
    return {"key_id": api_key.key_id, "digest": stored.digest, "pepper_version": stored.pepper_version}
