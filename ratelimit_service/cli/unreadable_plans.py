"""Plans whose row in Postgres cannot be read. The API returns them without limits, which no other plan is."""

from collections.abc import Iterable
from typing import Final

import typer

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.escaped import escaped

CANNOT_BE_READ: Final = "cannot be read"
"""In the place of limits."""


def is_unreadable(plan: Plan) -> bool:
    """Whether the server could not read its limits, nor perhaps what it does on a store failure."""
    return not plan.limits


def report_unreadable(plans: Iterable[Plan]) -> bool:
    """Say on standard error which of PLANS cannot be read, whatever format they are printed in. Whether there is one.

    Calls of their keys go on by what was valid last, where a worker has read it.
    """
    found = [escaped(plan.name) for plan in plans if is_unreadable(plan)]
    for name in found:
        typer.echo(
            f"plan {name} cannot be read: its row in Postgres is not valid; the log of the server that was asked says "
            "why. What was valid last stays in force where it is known, and `ratelimit-service audit list --target "
            f"plans/{name} --json` has it. `plans update` with its limits and on_store_failure repairs it",
            err=True,
        )
    return bool(found)
