"""What a server says of itself while a store hangs."""

import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from fixtures.postgres import OwnPostgres
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.operations.readiness import EFFECTS, Readiness
from ratelimit_service.server import status
from ratelimit_service.server.status import ServerStatus
from ratelimit_service.settings import Settings


async def test_a_postgres_that_hangs_takes_one_thread(
    own_postgres: OwnPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often anybody asks meanwhile: the schema is not known then, and everything else is."""
    monkeypatch.setattr(status, "_READ_SECONDS", 0.1)
    monkeypatch.setattr(status, "SHARED_SECONDS", 0.0)
    settings = Settings(
        database_url=SecretStr(own_postgres.server.url), peppers=SecretStr(Peppers.generate()), data_dir=tmp_path
    )
    asked = ServerStatus(settings, Readiness(list, 1, EFFECTS))
    await asked.report()
    before = threading.active_count()
    own_postgres.freeze()
    try:
        found = [await asked.report() for _ in range(8)]
        assert threading.active_count() <= before + 1
    finally:
        own_postgres.thaw()
    assert [set(each["schema"]) for each in found] == [{"needed"}] * 8
    assert {each["plane"] for each in found} == {"all"}
