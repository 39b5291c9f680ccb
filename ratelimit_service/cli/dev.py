"""`ratelimit-service dev`: the service and its stores on this machine, with no setup."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from ratelimit_service.bootstrap import open_services
from ratelimit_service.cli.database import database_errors
from ratelimit_service.cli.environment import STORE_SETTINGS, load_settings, variable_name
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.cli.seed import Seed
from ratelimit_service.cli.serve import Listen, OperationsListen, TransportName, Workers, serve_until_stopped
from ratelimit_service.cli.target import dialable
from ratelimit_service.data_dir import DEFAULT_DATA_DIR
from ratelimit_service.devstores.private_files import make_private_folder
from ratelimit_service.devstores.state import DevLock, DevState, ensure_peppers
from ratelimit_service.devstores.system_user import EmbeddedPostgresError, make_folder
from ratelimit_service.devstores.valkey import EmbeddedValkeyError
from ratelimit_service.errors import StartupError
from ratelimit_service.logs import flush_log
from ratelimit_service.postgres import migrate
from ratelimit_service.server.exposure import effective, open_ports
from ratelimit_service.server.port import PortLock
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

if TYPE_CHECKING:
    from ratelimit_service.devstores.stores import DevStores


def dev(
    *,
    listen: Listen = None,
    operations_listen: OperationsListen = None,
    transport: TransportName = None,
    workers: Workers = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of its state.")] = None,
) -> None:
    """Start the service with its own PostgreSQL and Valkey, two plans and a demo key. Keeps existing data.

    Every setting (docs/reference/settings.md) applies here too, except those of the stores and RATELIMIT_PLANE.
    """
    with report_errors(), _interruptible(), database_errors():
        settings = load_settings(
            listen=listen,
            operations_listen=operations_listen,
            transport=transport,
            workers=workers,
            data_dir=data_dir,
            plane="all",
        )
        if os.environ.get(variable_name("plane"), "all") != "all":
            typer.echo(f"{variable_name('plane')} is set but ignored: dev serves both planes", err=True)
        for name in STORE_SETTINGS:
            if variable_name(name) in os.environ:
                typer.echo(f"{variable_name(name)} is set but ignored: dev uses its own", err=True)
        try:
            # What a server would refuse is reported before anything is started.
            settings = effective(settings)
            for port in open_ports(settings):
                PortLock(port.address, port.setting).close()
            chosen = Transport.choose(settings)
            make_folder(settings.data_dir)
            make_private_folder(settings.data_dir)
            typer.echo(f"starting PostgreSQL and Valkey on {settings.data_dir}/", err=True)
            with DevLock(settings.data_dir), _stores(settings.data_dir) as stores:
                _run(settings, stores, chosen)
        except (StartupError, EmbeddedPostgresError, EmbeddedValkeyError) as error:
            raise CommandError(Exit.FAILED, *str(error).splitlines()) from None
        except OSError as error:
            raise CommandError.usage(_unusable(error, settings.data_dir)) from None


def _unusable(error: OSError, data_dir: Path) -> str:
    """Which file or folder cannot be used, and what to do if that is the folder of the state, or above it or in it."""
    if error.filename is None:
        return str(error.strerror or error)
    text = f"cannot use {error.filename}: {error.strerror}"
    found, state = Path(os.fsdecode(error.filename)).absolute(), data_dir.absolute()
    if found.is_relative_to(state) or state.is_relative_to(found):
        text += "; choose another folder for the state with --data-dir or RATELIMIT_DATA_DIR"
    return text


def _stores(data_dir: Path) -> "DevStores":
    try:
        from ratelimit_service.devstores.stores import DevStores  # noqa: PLC0415  needs an optional extra
    except ImportError as error:
        raise CommandError.usage(
            f"dev needs {error.name}, which is not installed; pip install 'ratelimit-service[embedded]'"
        ) from None
    return DevStores(data_dir)


def _run(settings: Settings, stores: "DevStores", transport: Transport) -> None:
    served = settings.model_copy(
        update={
            "database_url": SecretStr(stores.database_url),
            "decision_database_url": SecretStr(""),
            "redis_url": SecretStr(stores.redis_url),
            "peppers": SecretStr(ensure_peppers(settings.data_dir)),
        }
    )
    migrate.upgrade(stores.database_url)
    state = asyncio.run(_seed(served))

    def ready(in_effect: Settings) -> None:
        addresses = {
            "listen": in_effect.listen,
            "admin_listen": in_effect.admin_listen,
            "console": _console(in_effect),
        }
        replace(state, **addresses).write(in_effect.data_dir)
        flush_log()  # what to paste next is to be the last that one sees
        typer.echo(_banner(in_effect, state, transport))

    serve_until_stopped(served, ready)


async def _seed(settings: Settings) -> DevState:
    kept = DevState.read(settings.data_dir)
    async with open_services(settings) as services:
        seed = Seed(services.plans, services.keys, services.tokens, services.peppers)
        await seed.ensure_plans()
        return DevState(
            listen=settings.listen,
            api_key=await seed.ensure_key(kept),
            admin_token=await seed.ensure_token(kept),
            database_url=settings.database_url.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, like Ctrl-C, also end an unfinished start, with the stores stopped and exit code 0."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)


def _banner(settings: Settings, state: DevState, transport: Transport) -> str:
    """What is printed at the start, with commands that can be pasted as they are."""
    operations = dialable(settings.operations_listen)
    metrics = f"metrics on http://{operations}/metrics; " if settings.operations_listen else ""
    address = _console(settings)
    console = f"The console, for the admin token:\n  {address}\n\n" if address else ""
    ports = "\n".join(f"open: {port}" for port in open_ports(settings))
    return f"""
ratelimit-service serves on {settings.listen}. Transport {transport.name}: {transport.reason}.
{ports}
{metrics}state and secrets are in {settings.data_dir}/ (dev.json has the key and the admin token).

{console}The demo key, on plan free:
  {state.api_key}

{_how_to_call(settings, state.api_key)}

See some be refused:
  {_command(settings)} demo

Ctrl-C stops it; the next start keeps all data.
"""


def _console(settings: Settings) -> str:
    """The address of the console, empty if there is none: it needs the extra `console`."""
    listen = settings.console_listen or settings.operations_listen
    return f"http://{dialable(listen)}/console/" if listen and find_spec("jinja2") is not None else ""


def _how_to_call(settings: Settings, key: str) -> str:
    """Commands that request a decision on KEY."""
    command = _command(settings)
    header, token, lead = "", "", "Request a decision:"
    if settings.checks_protected:
        header, token = "-H 'authorization: Bearer TOKEN' ", " --token TOKEN"
        lead = (
            f"Request a decision, which needs a gateway's TOKEN:\n  {command} admin-tokens create NAME --role gateway"
        )
    body = f'{{"api_key":"{key}","resource":"orders.create"}}'
    method = "ratelimit.v1.RateLimitService/CheckLimit"
    curl = ""
    if settings.http_listen:
        url = f"http://{dialable(settings.http_listen)}/{method}"
        curl = f"\n  curl {header}-H 'content-type: application/json' -d '{body}' {url}"
    return f"""{lead}
  {command} check {key} --resource orders.create{token}

The same with other programs:
  grpcurl -plaintext {header}-d '{body}' {dialable(settings.listen)} {method}{curl}"""


def _command(settings: Settings) -> str:
    """This command as it was called, so that the line works in any shell on this folder; by its name if PATH has it."""
    program = Path(sys.argv[0])
    shown = str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)
    if shutil.which(program.name) == str(program):
        shown = program.name
    if settings.data_dir != DEFAULT_DATA_DIR:
        return f"RATELIMIT_DATA_DIR={shlex.quote(str(settings.data_dir))} {shlex.quote(shown)}"
    return shlex.quote(shown)
