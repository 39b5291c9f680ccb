"""What a server needs to start, and how it reports what is missing."""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from ratelimit_service.bootstrap import open_planes, open_services
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.errors import StartupError
from ratelimit_service.management.tokens import Role
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.live_servers import CERTAIN_SECONDS, PostgresLiveServers
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer
from transport.grpcio.conftest import MakeSettings
from transport.grpcio.running import open_server


@dataclass(frozen=True)
class Wrong:
    """Settings with something wrong, and the words that the message must contain."""

    changes: dict[str, object]
    words: tuple[str, ...]


async def message_of(settings: Settings) -> str:
    """The message of the refusal to start with these settings."""
    with pytest.raises(StartupError) as caught:
        async with open_planes(settings):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong({"peppers": ""}, ("RATELIMIT_PEPPERS is not set", "openssl rand")),
        Wrong({"peppers": "1:c2hvcnQ="}, ("RATELIMIT_PEPPERS", "version 1 has 5 bytes")),
        Wrong({"peppers": "hunter2hunter2"}, ("RATELIMIT_PEPPERS", "<version>:<base64>")),
        Wrong({"database_url": ""}, ("RATELIMIT_DATABASE_URL is not set",)),
        Wrong({"database_url": "mysql://me:hunter2@host/x"}, ("RATELIMIT_DATABASE_URL", "postgresql://")),
        Wrong({"database_url": "postgresql://me:hunter2@127.0.0.1:1/x"}, ("Postgres", "RATELIMIT_DATABASE_URL")),
    ],
    ids=lambda wrong: str(*wrong.changes.values()),
)
async def test_settings_that_cannot_work_are_reported(
    make_settings: MakeSettings, empty_database_url: Callable[[], str], wrong: Wrong
) -> None:
    """The refusal names the setting and what to do, and repeats no password or pepper."""
    output = await message_of(make_settings(**{"database_url": empty_database_url()} | wrong.changes))
    for word in wrong.words:
        assert word in output
    assert "hunter2" not in output


@pytest.mark.parametrize("url", ["", "http://me:hunter2@host", "redis://h:port", "redis+sentinel://h:1"])
async def test_a_redis_url_that_cannot_work_is_reported(make_settings: MakeSettings, url: str) -> None:
    """So is one of the bucket store, before anything is served."""
    settings = await asyncio.to_thread(make_settings, redis_url=url)
    async with open_services(settings) as services:
        await services.tokens.create("root", Role.ADMIN)
    output = await message_of(settings)
    assert "RATELIMIT_REDIS_URL" in output
    assert "hunter2" not in output


async def test_an_old_schema_is_reported(make_settings: MakeSettings, empty_database_url: Callable[[], str]) -> None:
    """A database that was never migrated is refused with the command that migrates it."""
    assert "ratelimit-service migrate" in await message_of(make_settings(database_url=empty_database_url()))


async def test_no_token_is_reported(make_settings: MakeSettings) -> None:
    """Without any token keys could not be managed, so the server reports how to make one; with one it starts."""
    settings = await asyncio.to_thread(make_settings)
    assert "admin-tokens create" in await message_of(settings)
    async with open_services(settings) as services:
        await services.tokens.create("root", Role.ADMIN)
    async with open_planes(settings) as planes:
        assert planes.services.peppers == Peppers.parse(settings.peppers.get_secret_value())


async def test_a_port_that_is_taken_is_reported(make_settings: MakeSettings) -> None:
    """A port that another program holds is refused with its address and the setting."""
    settings = await asyncio.to_thread(make_settings)
    holder = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    listen = f"127.0.0.1:{holder.sockets[0].getsockname()[1]}"
    async with holder, open_planes(settings, needs_token=False) as planes:
        with pytest.raises(StartupError, match=rf"{listen}.*RATELIMIT_LISTEN"):
            await GrpcServer(settings.model_copy(update={"listen": listen}), planes, planes.key_admin).start()


@pytest.mark.parametrize(
    "given",
    [("tls_certificate",), ("tls_key",), ("tls_client_ca",), ("tls_certificate", "tls_client_ca")],
    ids="+".join,
)
async def test_half_of_tls_is_reported(make_settings: MakeSettings, tmp_path: Path, given: tuple[str, ...]) -> None:
    """A certificate without its key, or the reverse, never serves plain text: it does not start."""
    settings = await asyncio.to_thread(make_settings)
    halved = settings.model_copy(update=dict.fromkeys(given, tmp_path / "x.pem"))
    async with open_planes(settings, needs_token=False) as planes:
        with pytest.raises(StartupError, match="RATELIMIT_TLS_CERTIFICATE and RATELIMIT_TLS_KEY"):
            await GrpcServer(halved, planes, planes.key_admin).start()


async def test_missing_certificates_are_reported(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Files that cannot be read are named."""
    settings = await asyncio.to_thread(make_settings)
    missing = settings.model_copy(update={"tls_certificate": tmp_path / "c.pem", "tls_key": tmp_path / "k.pem"})
    async with open_planes(settings, needs_token=False) as planes:
        with pytest.raises(StartupError, match=r"c\.pem"):
            await GrpcServer(missing, planes, planes.key_admin).start()


async def test_servers_count_each_other(make_settings: MakeSettings) -> None:
    """Each server knows how many use the database, and one that ended is no longer counted soon after."""
    settings = await asyncio.to_thread(make_settings)
    async with open_server(settings, roles=()) as running:
        # By its clock, which runs five times as fast, a lower number is soon certain.
        servers = PostgresLiveServers(running.planes.services.database, 1, lambda: 5 * monotonic())
        counting = asyncio.create_task(servers.run())
        for _ in range(100):
            if servers.count == 2:
                break
            await asyncio.sleep(0.05)
        assert servers.count == 2
    for _ in range(round(2 * CERTAIN_SECONDS / 0.05)):
        if servers.count == 1:
            break
        await asyncio.sleep(0.05)
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert servers.count == 1


async def test_servers_of_another_database_are_not_counted(empty_database_url: Callable[[], str]) -> None:
    """Two servers on one Postgres, each with a database of its own, share no limits and do not count each other."""
    counted = []
    counting = []
    for _ in range(2):
        servers = PostgresLiveServers(Database(await asyncio.to_thread(empty_database_url)), first_guess=1)
        counting.append(asyncio.create_task(servers.run()))
        await asyncio.sleep(1)
        counted.append(servers.count)  # the first server is still there when the second one counts
    for task in counting:
        task.cancel()
    await asyncio.gather(*counting, return_exceptions=True)
    assert counted == [1, 1]


@pytest.mark.parametrize("seconds", [0, 0.005, 0.01, 0.02])
async def test_a_server_that_stops_at_once_leaves_nothing_open(make_settings: MakeSettings, seconds: float) -> None:
    """At whatever point of its start it is stopped, no connection is left open (a warning would fail the test)."""
    settings = await asyncio.to_thread(make_settings)
    for _ in range(4):
        async with open_planes(settings, needs_token=False):
            await asyncio.sleep(seconds)
    await asyncio.sleep(0.1)
    gc.collect()
