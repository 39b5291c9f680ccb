"""`ratelimit-service plans ...`: plans and their limits."""

from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.limit_view import describe_limit
from ratelimit_service.cli.message_file import PlanFile, read_plan
from ratelimit_service.cli.options import AsJson, PageSize, PageToken, Server, Token
from ratelimit_service.cli.output import print_facts, print_json, print_next_page, print_table
from ratelimit_service.cli.times import format_moment


def print_plan(plan: Plan) -> None:
    """Print all of one plan."""
    print_facts(
        [
            ("plan", plan.name),
            ("version", str(plan.version)),
            ("description", plan.description),
            *(("limit", describe_limit(limit)) for limit in plan.limits),
            ("on store failure", Plan.OnStoreFailure.Name(plan.on_store_failure)),
            ("created", format_moment(plan.create_time)),
            ("changed", format_moment(plan.update_time)),
            ("etag", plan.etag),
        ]
    )


def print_plans(plans: Iterable[Plan]) -> None:
    """Print one line for each plan."""
    print_table(
        ("PLAN", "VERSION", "LIMITS", "ON STORE FAILURE", "DESCRIPTION"),
        (
            (
                plan.name,
                str(plan.version),
                "; ".join(map(describe_limit, plan.limits)),
                Plan.OnStoreFailure.Name(plan.on_store_failure),
                plan.description,
            )
            for plan in plans
        ),
    )


app = command_group("Make and change plans: named, versioned sets of limits.")

Name = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")]
Etag = Annotated[str, typer.Option(help="Refuse if the plan has changed since this etag was read.")]
_CHANGEABLE = ("limits", "on_store_failure", "description")


@app.command()
def create(file: PlanFile, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Make a plan from a file."""
    with connect(server, token) as client:
        action = ManagePlanRequest.CreatePlan(plan=read_plan(file).plan)
        plan = client.manage_plan(ManagePlanRequest(create=action)).create.plan
    (print_json if as_json else print_plan)(plan)


@app.command()
def get(
    name: Name,
    *,
    version: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which version. 0 means the one in force.")] = 0,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show one plan. The JSON can be given back to create and update."""
    with connect(server, token) as client:
        action = ManagePlanRequest.GetPlan(name=name, version=version)
        plan = client.manage_plan(ManagePlanRequest(get=action)).get.plan
    (print_json if as_json else print_plan)(plan)


@app.command("list")
def list_plans(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List plans in the order of their names."""
    with connect(server, token) as client:
        action = ManagePlanRequest.ListPlans(page_size=page_size, page_token=page_token)
        page = client.manage_plan(ManagePlanRequest(list=action)).list
    if as_json:
        print_json(page)
    else:
        print_plans(page.plans)
        print_next_page(page.next_page_token)


@app.command()
def update(file: PlanFile, *, server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Make a new version of a plan from a file, in force at once.

    What the file leaves out of limits, on_store_failure and description stays as it is. If the file has an etag, the
    update is refused when the plan has changed since.
    """
    with connect(server, token) as client:
        written = read_plan(file)
        mask = FieldMask(paths=[name for name in _CHANGEABLE if name in written.fields])
        action = ManagePlanRequest.UpdatePlan(plan=written.plan, update_mask=mask)
        plan = client.manage_plan(ManagePlanRequest(update=action)).update.plan
    (print_json if as_json else print_plan)(plan)


@app.command()
def delete(name: Name, *, etag: Etag = "", server: Server = None, token: Token = None, as_json: AsJson = False) -> None:
    """Delete a plan that no key is on, and show what it was."""
    with connect(server, token) as client:
        action = ManagePlanRequest.DeletePlan(name=name, etag=etag)
        plan = client.manage_plan(ManagePlanRequest(delete=action)).delete.plan
    (print_json if as_json else print_plan)(plan)
