"""Postgres and its schema."""

from collections.abc import Iterator

import psycopg

from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.settings import Settings

_SECONDS = 3
_SCHEMES = ("postgresql://", "postgres://")
_LEAST_VERSION = 130000


def examine_postgres(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, is new enough, and has our schema and a token."""
    url = settings.database_url.get_secret_value()
    if not url:
        yield Finding.fault(
            "postgres", "RATELIMIT_DATABASE_URL is not set; set it to postgresql://user:password@host:5432/name"
        )
        return
    if not url.startswith(_SCHEMES):
        yield Finding.fault("postgres", "RATELIMIT_DATABASE_URL does not begin with postgresql://")
        return
    try:
        with psycopg.connect(url, connect_timeout=_SECONDS) as connection:
            version, read_only = connection.info.server_version, _is_read_only(connection)
    except psycopg.Error as error:
        yield Finding.fault("postgres", f"cannot connect: {_first_line(error)}")
        return
    if version < _LEAST_VERSION:
        yield Finding.fault("postgres", f"is version {version // 10_000}; 13 or newer is needed")
    elif read_only:
        yield Finding.warning("postgres", "is read only, as a standby is: calls are decided, nothing can be changed")
    else:
        yield Finding.ok("postgres", f"version {version // 10_000} answers")


def _is_read_only(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def _first_line(error: psycopg.Error) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("connection failed: ")
