"""A plan in a YAML or JSON file, in the shape of the message `ratelimit.v1.Plan`."""

from dataclasses import dataclass
from typing import Annotated

import typer
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.fault import Fault


def read_message(file: typer.FileText, message: Message, what: str) -> frozenset[str]:
    """Read the file into MESSAGE, and return which of its fields the file names, be they empty.

    Raises Fault with the line or the field at fault. WHAT says what the file must hold.
    """
    name = "standard input" if file.name == "<stdin>" else file.name
    try:
        content = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Fault.usage(f"{name}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Fault.usage(f"{name}: is neither YAML nor JSON") from None
    if not isinstance(content, dict):
        raise Fault.usage(f"{name}: must hold {what}, not {type(content).__name__}")
    try:
        ParseDict(content, message)
    except (ParseError, AttributeError, TypeError) as error:
        raise Fault.usage(f"{name}: {error}") from None
    return frozenset(str(field) for field in content)


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
