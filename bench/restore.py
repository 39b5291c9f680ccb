"""A backup and a restore by docs/guides/backup.md at size, while a server decides.

    python -m bench.restore FOLDER keys 1000000       # fills the stores in FOLDER, which is made
    python -m bench.restore FOLDER usage 2000x7       # usage of so many keys over so many days
    python -m bench.restore FOLDER back-up
    python -m bench.restore FOLDER restore

Each step starts the stores and stops them, so that they can be done at different times; `back-up` and `restore` run the
guide's own commands. Remove FOLDER in the end.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, Self

import grpc
import psycopg
from pydantic import SecretStr

from bench.target import PROGRAM, free_port, serving
from bench.usage_world import generate_usage
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.bootstrap import open_services
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.devstores.postgres import EmbeddedPostgres, _programs
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.management.tokens import LOCAL, Role
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.settings import Settings

_GUIDE: Final = Path(__file__).parent.parent / "docs" / "guides" / "backup.md"
_AMOUNT: Final = 1_000_000
_FILLING: Final = {"fsync": "off", "synchronous_commit": "off", "max_wal_size": "8GB", "shared_buffers": "1GB"}
_SERVING: Final = {"max_wal_size": "4GB", "shared_buffers": "1GB", "maintenance_work_mem": "256MB"}
_TABLES: Final = ("keys", "key_secrets", "usage_series", "usage_minute", "usage_hour", "usage_day")
_KEYS: Final = """
    INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time)
    SELECT 'K' || lpad(number::text, 15, '0'), 'subject-' || number / 2, plan_id, 'active', '', 1, %(now)s, %(now)s
    FROM plans, generate_series(1, %(count)s) number WHERE name = 'yearly';
    INSERT INTO key_secrets (key_id, digest, pepper_version)
    SELECT key_id, sha256(convert_to(key_id, 'UTF8')), 1 FROM keys WHERE key_id LIKE 'K%%';
"""
_NOW: Final = "2026-01-01"


@dataclass(frozen=True)
class Stores:
    """Stores that run."""

    folder: Path
    settings: Settings

    @property
    def url(self) -> str:
        """That of Postgres' database."""
        return self.settings.database_url.get_secret_value()

    @property
    def environment(self) -> dict[str, str]:
        """What the guide's commands have in their environment."""
        path = f"{PROGRAM.parent}:{_programs()}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "OWNER_URL": self.url.rpartition("/")[0]}

    def paste(self, block: str) -> float:
        """Paste a block of the guide into a shell. Returns the seconds that it took."""
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-eu"],
            input=block,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{block}\n{done.stderr}")
        return time.monotonic() - began

    def rows(self) -> dict[str, int]:
        """How many each table has."""
        with psycopg.connect(self.url) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for table in _TABLES]  # noqa: S608  names from above
        return {table: row[0] if row else 0 for table, row in zip(_TABLES, counts, strict=True)}


@contextmanager
def open_stores(folder: Path, postgres_settings: Mapping[str, str]) -> Iterator[Stores]:
    """Start the stores in FOLDER, and stop them at the end."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    peppers = folder / "peppers"
    if not peppers.exists():
        peppers.write_text(Peppers.generate())
    postgres = EmbeddedPostgres(folder / "postgres", settings=postgres_settings)
    valkey = EmbeddedValkey(folder / "valkey")
    postgres.start()
    valkey.start()
    try:
        yield Stores(
            folder,
            Settings(
                database_url=SecretStr(postgres.url),
                redis_url=SecretStr(valkey.url),
                peppers=SecretStr(peppers.read_text()),
                log_level="warning",
                operations_listen=f"127.0.0.1:{free_port()}",
            ),
        )
    finally:
        valkey.stop()
        postgres.stop()


async def _administer(settings: Settings, *, first: bool) -> str:
    """A key on a plan with a quota for the year; the plan and a token as well, the FIRST time. Returns its secret."""
    async with open_services(settings) as services:
        if first:
            await services.tokens.create("bench", Role.ADMIN)
            quota = Limit("all", Quota(_AMOUNT, Window.YEAR))
            draft = PlanDraft(name="yearly", limits=(quota,), on_store_failure=OnStoreFailure.DENY, description="")
            await services.plans.create(LOCAL.name, draft)
        draft_key = KeyDraft(plan="yearly", subject=f"s{time.time()}", description="", expires_us=None)
        _, secret = await services.keys.create(LOCAL.name, draft_key)
        return str(secret)


def fill_keys(folder: Path, count: int) -> None:
    """The schema, and so many keys."""
    with open_stores(folder, _FILLING) as stores:
        upgrade(stores.url)
        (folder / "key").write_text(asyncio.run(_administer(stores.settings, first=True)))
        with psycopg.connect(stores.url) as connection:
            values = {"count": count, "now": _NOW}
            connection.execute(psycopg.ClientCursor(connection).mogrify(_KEYS, values).encode())
        print(f"keys: {stores.rows()['keys']:,}")


def fill_usage(folder: Path, size: str) -> None:
    """Usage of KEYSxDAYS."""
    keys, days = (int(number) for number in size.split("x"))
    with open_stores(folder, _FILLING) as stores:
        generate_usage(stores.url, keys, days)
        with psycopg.connect(stores.url) as connection:
            connection.execute("DROP TABLE rates, day_by_minute, day_by_hour, day_by_day")
        print(stores.rows())


class Caller:
    """A gateway that asks for one key a hundred times a second, with a deadline of a second."""

    def __init__(self, port: int, api_key: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = RateLimitServiceStub(self._channel)
        self._request = CheckLimitRequest(api_key=api_key)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.calls = 0
        self.errors: list[str] = []
        self.slowest = 0.0
        self.remaining: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._channel.close()

    def reason(self, api_key: str) -> str:
        """How a key is decided."""
        response = self._stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)
        return str(CheckLimitResponse.Reason.Name(response.reason))

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            began = time.monotonic()
            try:
                response = self._stub.CheckLimit(self._request, timeout=1)
                self.remaining.append(response.remaining)
            except grpc.RpcError as error:
                self.errors.append(str(error))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.calls += 1


def back_up(folder: Path) -> None:
    """The guide's first block."""
    dump, *_ = _blocks()
    with open_stores(folder, _SERVING) as stores:
        with (
            serving(stores.settings, "envoy", 1) as target,
            Caller(target.port, (folder / "key").read_text()) as caller,
        ):
            _report("back up", stores.paste(dump), caller)
        size = sum(file.stat().st_size for file in folder.glob("night.dump"))
        with psycopg.connect(stores.url) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        print(f"database {(row[0] if row else 0) >> 20:,} MiB, dump {size >> 20:,} MiB")
        (folder / "rows.json").write_text(json.dumps(stores.rows()))


def restore(folder: Path) -> None:
    """The guide's other blocks, and what came of them."""
    _, rebuild, swap, *_ = _blocks()
    with open_stores(folder, _SERVING) as stores:
        later = asyncio.run(_administer(stores.settings, first=False))
        with serving(stores.settings, "envoy", 1) as target:
            with Caller(target.port, (folder / "key").read_text()) as caller:
                _until(lambda: caller.reason(later) == "WITHIN_LIMIT")
                began = time.monotonic()
                _report("restore beside the old one", stores.paste(rebuild), caller)
                _report("change names", stores.paste(swap), caller)
                swapped = time.monotonic()
                _until(lambda: caller.reason(later) == "KEY_UNKNOWN")
                print(f"in force {time.monotonic() - swapped:.1f} s after that")
                _until(lambda: _ready(stores.settings) == "ready")
                print(f"ready {time.monotonic() - swapped:.1f} s after that; {time.monotonic() - began:.0f} s in all")
                time.sleep(2)
            falling = all(after < before for before, after in zip(caller.remaining, caller.remaining[1:], strict=False))
            print(f"{caller.calls} calls, errors {caller.errors[:3]}, slowest {caller.slowest * 1000:.0f} ms")
            print(f"the quota went on where it was: {falling}")
        before = json.loads((folder / "rows.json").read_text())
        now = stores.rows()
        print("rows:", {table: f"{before[table]:,} -> {now[table]:,}" for table in before})


def _blocks() -> list[str]:
    found = re.findall(r"^( *)```sh\n(.*?)^ *```$", _GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def _ready(settings: Settings) -> str:
    connection = HTTPConnection(settings.operations_listen, timeout=5)
    connection.request("GET", "/readyz")
    text = connection.getresponse().read().decode().strip()
    connection.close()
    return text


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit("not within two minutes")
        time.sleep(0.1)


def _report(what: str, seconds: float, caller: Caller) -> None:
    print(f"{what}: {seconds:.1f} s; {caller.calls} calls, {len(caller.errors)} errors", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("keys").add_argument("count", type=int)
    steps.add_parser("usage").add_argument("size", help="KEYSxDAYS")
    steps.add_parser("back-up")
    steps.add_parser("restore")
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    if given.step == "keys":
        fill_keys(folder, given.count)
    elif given.step == "usage":
        fill_usage(folder, given.size)
    elif given.step == "back-up":
        back_up(folder)
    else:
        restore(folder)


if __name__ == "__main__":
    main()
