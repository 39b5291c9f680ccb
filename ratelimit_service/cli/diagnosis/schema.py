"""The schema in Postgres, and whether anybody could call."""

import asyncio
from collections.abc import Iterator

from ratelimit_service.cli.database import open_transactions
from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.keys.token_service import TokenService
from ratelimit_service.settings import Settings
from ratelimit_service.storage import migrate


def examine_schema(settings: Settings) -> Iterator[Finding]:
    """Whether the schema is the one that this program needs, and holds a token. Call it when Postgres answers."""
    wanted = migrate.head()
    try:
        found = migrate.current(settings.database_url.get_secret_value())
        if found is None:
            yield Finding.fault("schema", "there is none yet; run `ratelimit-service migrate`")
        elif found != wanted:
            yield Finding.fault(
                "schema",
                f"is at revision {found}, this program needs {wanted}; run `ratelimit-service migrate`, or the newer "
                "program if the schema is the newer one",
            )
        else:
            yield Finding.ok("schema", f"is at revision {wanted}, as this program needs it")
            yield _examine_tokens(any_token=asyncio.run(_any_token(settings)))
    except (StoreUnavailable, Unavailable) as fault:
        yield Finding.fault("schema", str(fault))


async def _any_token(settings: Settings) -> bool:
    async with open_transactions(settings) as transactions:
        return await TokenService(transactions, SystemClock()).any()


def _examine_tokens(*, any_token: bool) -> Finding:
    if any_token:
        return Finding.ok("tokens", "there is a token for those who administer it")
    return Finding.fault(
        "tokens",
        "there is none, so a server would not start; `ratelimit-service admin-tokens create NAME --role admin`",
    )
