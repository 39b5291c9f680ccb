"""`ratelimit-service doctor`: what is wrong, in words."""

import json
import os

import typer

from ratelimit_service.cli.diagnosis.examination import examine
from ratelimit_service.cli.diagnosis.finding import Verdict
from ratelimit_service.cli.exits import Exit
from ratelimit_service.cli.fault import told_in_words
from ratelimit_service.cli.options import AsJson

_COLOURS = {Verdict.OK: typer.colors.GREEN, Verdict.WARNING: typer.colors.YELLOW, Verdict.FAULT: typer.colors.RED}


def doctor(*, as_json: AsJson = False) -> None:
    """Say what is wrong with settings, Postgres, its schema, Redis, peppers, ports and doors, and what to do.

    Exits with 1 if a server would not start or not work. Where `dev` was started, its stores are looked at.
    """
    findings = []
    with told_in_words():
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
