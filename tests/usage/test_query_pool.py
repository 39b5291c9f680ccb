"""Heavy questions about usage leave the rest of the service alone."""

import asyncio
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from fixtures.dev_server import free_address
from ratelimit_service import bootstrap
from ratelimit_service.bootstrap import open_services
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Role
from ratelimit_service.settings import Settings
from ratelimit_service.usage.query_request import UsageRequest

HEAVY_SECONDS = 2.4


async def test_other_work_does_not_wait_for_heavy_questions(
    migrated_database_url: Callable[[], str], valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every connection for usage is busy, tokens are checked and keys are looked up as if there were no usage."""
    url = migrated_database_url()
    heavy = text(f"SELECT pg_sleep({HEAVY_SECONDS}), set_config('jit', 'off', true)")
    monkeypatch.setattr("ratelimit_service.postgres.repositories.usage._SESSION", heavy)
    monkeypatch.setattr("ratelimit_service.bootstrap._REPORT_QUEUE_SECONDS", 0.5)
    settings = Settings(
        database_url=SecretStr(url),
        redis_url=SecretStr(valkey_url),
        peppers=SecretStr(Peppers.generate()),
        listen=free_address(),
    )
    async with open_services(settings) as services:
        token = await services.tokens.create("someone", Role.VIEWER)
        questions = [
            asyncio.create_task(services.usage.query(UsageRequest())) for _ in range(bootstrap._REPORT_CONNECTIONS)
        ]
        await asyncio.sleep(0.3)  # until each has its connection

        async with asyncio.timeout(HEAVY_SECONDS / 2):
            for _ in range(10):
                assert (await services.tokens.authenticate(token)) is not None
                await services.keys.list(Paging(10))
        assert not any(question.done() for question in questions)
        with pytest.raises(Unavailable, match="too many queries at once"):  # one more is refused, after a while
            await services.usage.query(UsageRequest())
        await asyncio.gather(*questions)
