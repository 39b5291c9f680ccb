"""`ratelimit-service doctor`: the command, and the order of its checks."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from pydantic import ValidationError

from ratelimit_service.cli.doctor.examination import check_servers
from ratelimit_service.cli.doctor.findings import Finding, Severity
from ratelimit_service.cli.doctor.server import check_server
from ratelimit_service.cli.doctor.settings import (
    check_console,
    check_descriptors,
    check_open_ports,
    check_peppers,
    check_planes,
    check_ports,
    check_tls,
    check_tracing,
    check_transport,
    check_variables,
    check_webhook,
)
from ratelimit_service.cli.doctor.stores import check_decision_database, check_postgres, check_redis, check_schema
from ratelimit_service.cli.environment import describe_setting_errors, with_dev_stores
from ratelimit_service.cli.errors import Exit, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import AsJson
from ratelimit_service.cli.output import coloured
from ratelimit_service.settings import Settings

_COLOURS = {Severity.OK: typer.colors.GREEN, Severity.WARNING: typer.colors.YELLOW, Severity.ERROR: typer.colors.RED}


Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="Examine a server that runs, from outside, instead of settings: the address of its operations port, with "
        "https:// to check its certificate by RATELIMIT_SERVER_CA. Repeat it to compare servers. No token is sent.",
    ),
]


def doctor(*, servers: Servers = None, as_json: AsJson = False) -> None:
    """Check settings, Postgres, its schema, Redis, peppers, ports and transport; report what is wrong and what to do.

    Exits with 1 if a server would not start or not work. Where `dev` was started, its stores are checked.

    With --server it examines servers that run: their stores, the age of what they decide by, clocks, certificates that
    end within 14 days, a Redis that evicts, and versions that differ. It exits with 1 if one does not work.
    """
    findings = []
    with report_errors():
        for finding in check_servers(servers) if servers else run_checks(os.environ):
            findings.append(finding)
            if not as_json:
                severity = coloured(f"{finding.severity.value:8}", _COLOURS[finding.severity])
                typer.echo(f"{severity}{finding.subject}: {escaped(finding.message)}")
    if as_json:
        records = [
            {"subject": each.subject, "severity": each.severity.value, "message": each.message} for each in findings
        ]
        typer.echo(json.dumps(records, indent=2))
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise typer.Exit(Exit.NO)


def run_checks(environment: Mapping[str, str]) -> Iterator[Finding]:
    """All checks, as far as the settings can be read. ENVIRONMENT is what the settings are read from."""
    yield from check_variables(environment)
    try:
        settings = with_dev_stores(Settings())
    except ValidationError as error:
        for line in describe_setting_errors(error):
            yield Finding.error("settings", line)
        return
    yield Finding.ok("settings", "valid")
    yield from check_planes(settings)
    yield from check_peppers(settings)
    postgres = list(check_postgres(settings))
    yield from postgres
    works = all(finding.severity is not Severity.ERROR for finding in postgres)
    if works:
        yield from check_schema(settings)
    if works or settings.database_variable != settings.decision_database_variable:  # the other may answer
        yield from check_decision_database(settings)
    for check in (
        *(check_redis, check_transport, check_tls, check_descriptors),
        *(check_ports, check_server, check_open_ports, check_console, check_webhook, check_tracing),
    ):
        yield from check(settings)
