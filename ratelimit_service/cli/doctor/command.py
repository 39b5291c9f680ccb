"""`ratelimit-service doctor`: what is wrong, in words."""

import json
import os
from collections.abc import Iterator, Mapping

import typer
from pydantic import ValidationError

from ratelimit_service.cli.configured import describe_setting_faults, with_dev_stores
from ratelimit_service.cli.doctor.findings import Finding, Verdict
from ratelimit_service.cli.doctor.settings import (
    examine_environment,
    examine_peppers,
    examine_ports,
    examine_tls,
    examine_transport,
)
from ratelimit_service.cli.doctor.stores import examine_postgres, examine_redis, examine_schema
from ratelimit_service.cli.fault import Exit, report_faults
from ratelimit_service.cli.options import AsJson
from ratelimit_service.settings import Settings


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything, as far as the settings can be read. ENVIRONMENT is what the settings were read from."""
    yield from examine_environment(environment)
    try:
        settings = with_dev_stores(Settings())
    except ValidationError as error:
        for line in describe_setting_faults(error):
            yield Finding.fault("settings", line)
        return
    yield Finding.ok("settings", "can be read")
    yield from examine_peppers(settings)
    postgres = list(examine_postgres(settings))
    yield from postgres
    if all(finding.verdict is not Verdict.FAULT for finding in postgres):
        yield from examine_schema(settings)
    for look in (examine_redis, examine_transport, examine_tls, examine_ports):
        yield from look(settings)


_COLOURS = {Verdict.OK: typer.colors.GREEN, Verdict.WARNING: typer.colors.YELLOW, Verdict.FAULT: typer.colors.RED}


def doctor(*, as_json: AsJson = False) -> None:
    """Say what is wrong with settings, Postgres, its schema, Redis, peppers, ports and transports, and what to do.

    Exits with 1 if a server would not start or not work. Where `dev` was started, its stores are looked at.
    """
    findings = []
    with report_faults():
        for finding in examine(os.environ):
            findings.append(finding)
            if not as_json:
                verdict = typer.style(f"{finding.verdict.value:8}", fg=_COLOURS[finding.verdict])
                typer.echo(f"{verdict}{finding.thing}: {finding.words}")
    if as_json:
        typer.echo(
            json.dumps(
                [{"thing": each.thing, "verdict": each.verdict.value, "words": each.words} for each in findings],
                indent=2,
            )
        )
    if any(finding.verdict is Verdict.FAULT for finding in findings):
        raise typer.Exit(Exit.NO)
