"""Which schemas a server starts on: migrations only expand, so it may be the older of the two."""

from collections.abc import Callable

import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from fixtures.control_plane import key_draft, plan_draft
from ratelimit_service.bootstrap import StartupError, open_services
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.postgres.schema import current, head
from ratelimit_service.settings import Settings


@pytest.fixture
def settings(migrated_database_url: Callable[[], str]) -> Settings:
    """Settings on a migrated database of its own."""
    url = migrated_database_url()
    return Settings(database_url=SecretStr(url), peppers=SecretStr(Peppers.generate()))


def execute(settings: Settings, statement: str) -> None:
    """Run a statement on the database."""
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("works_since", ["0010", head()])
async def test_an_older_server_works_on_a_newer_schema(settings: Settings, works_since: str) -> None:
    """On a schema that a newer version has only expanded, services open, say so in the log, and read and write."""
    execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    execute(settings, f"UPDATE schema_compatibility SET revision = '9999', works_since = '{works_since}'")
    execute(settings, "ALTER TABLE keys ADD COLUMN added_later text NOT NULL DEFAULT ''")
    with capture_logs() as logs:
        async with open_services(settings) as services:
            await services.plans.create("ada", plan_draft())
            key, _ = await services.keys.create("ada", key_draft())
            assert (await services.keys.list(Paging())).items == [key]
    lines = [line for line in logs if "schema" in line["event"]]  # others may speak of the machine
    assert [(line["log_level"], line["revision"]) for line in lines] == [("warning", "9999")], logs


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (
            "UPDATE schema_compatibility SET revision = '9999', works_since = '9998'",
            "on which programs of 9998",
        ),
        ("UPDATE schema_compatibility SET revision = '9998', works_since = '0010'", "not marked as compatible"),
        ("DELETE FROM schema_compatibility", "not marked as compatible"),
        ("DROP TABLE schema_compatibility", "not marked as compatible"),
    ],
)
async def test_a_newer_schema_that_is_not_compatible_is_an_error(settings: Settings, mark: str, message: str) -> None:
    """Services do not open on a schema of a newer version on which this one may fail; the error says what to do."""
    execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    execute(settings, mark)
    with pytest.raises(StartupError, match=rf"schema is at revision 9999, .*{message}.*; install"):
        async with open_services(settings):
            pass


async def test_an_older_schema_is_an_error(settings: Settings) -> None:
    """On a schema that lacks a migration, the services do not open; the error says what to run."""
    execute(settings, "UPDATE alembic_version SET version_num = '0002'")
    with pytest.raises(StartupError, match=rf"at revision 0002, this program needs {head()}; run"):
        async with open_services(settings):
            pass


def test_a_newer_schema_is_not_migrated(settings: Settings) -> None:
    """An older program that migrates leaves a newer schema as it is, so that it can start beside it."""
    url = settings.database_url.get_secret_value()
    execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    upgrade(url)
    assert current(url) == "9999"
