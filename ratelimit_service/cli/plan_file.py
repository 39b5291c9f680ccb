"""A plan in a YAML or JSON file, in the shape of the message `ratelimit.v1.Plan`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.message_file import read_message

PlanFile = Annotated[
    typer.FileText,
    typer.Argument(metavar="FILE", help="The plan, as YAML or JSON in the shape of ratelimit.v1.Plan; - reads it."),
]


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """A plan and which of its fields the file names, be they empty."""

    plan: Plan
    fields: frozenset[str]


def read_plan(file: typer.FileText) -> WrittenPlan:
    """Read the file. Raises Fault with the line or the field at fault."""
    plan = Plan()
    return WrittenPlan(plan, read_message(file, plan, "a plan with its name and limits"))
