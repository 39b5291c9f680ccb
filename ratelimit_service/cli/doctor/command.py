"""`ratelimit-service doctor`: what is examined, and how findings are printed."""

import os
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from ratelimit_service.cli.doctor.findings import Finding, Severity
from ratelimit_service.cli.errors import Exit, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import AsJson
from ratelimit_service.cli.output import coloured

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
        for finding in _findings(servers or ()):
            findings.append(finding)
            if not as_json:
                severity = coloured(f"{finding.severity.value:8}", _COLOURS[finding.severity])
                typer.echo(f"{severity}{finding.subject}: {escaped(finding.message)}")
    if as_json:
        import json  # noqa: PLC0415  most output is for people

        records = [
            {"subject": each.subject, "severity": each.severity.value, "message": each.message} for each in findings
        ]
        typer.echo(json.dumps(records, indent=2))
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise typer.Exit(Exit.NO)


def _findings(servers: Sequence[str]) -> Iterator[Finding]:
    """Those on servers that run, if any are named, otherwise those on what one would start with."""
    if servers:
        from ratelimit_service.cli.doctor.examination import check_servers  # noqa: PLC0415  not both

        return check_servers(servers)
    from ratelimit_service.cli.doctor.before_start import run_checks  # noqa: PLC0415  as above: this needs all stores

    return run_checks(os.environ)
