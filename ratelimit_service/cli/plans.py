"""`ratelimit-service plans ...`: plans and their limits."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest, ManagePlanResponse
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service._gen.ratelimit.v1.simulation_pb2 import SimulatePlanRequest, SimulatePlanResponse
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.confirm import Yes, confirmed
from ratelimit_service.cli.errors import CommandError, report_errors
from ratelimit_service.cli.options import AsJson, DryRun, Output, PageSize, PageToken, Server, Token, output_format
from ratelimit_service.cli.output import (
    Format,
    describe_limit,
    print_as,
    print_fields,
    print_json,
    print_next_page,
    print_table,
)
from ratelimit_service.cli.times import format_time, parse_duration
from ratelimit_service.cli.unreadable_plans import CANNOT_BE_READ, is_unreadable, report_unreadable
from ratelimit_service.decision.limit import MAX_TOKENS

app = command_group("Create and change plans: named, versioned sets of limits.")

PlanFile = Annotated[
    typer.FileText,
    typer.Argument(
        metavar="FILE", help="The plan, as YAML or JSON in the shape of ratelimit.v1.Plan; - is standard input."
    ),
]
Name = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")]
_UPDATABLE = ("limits", "on_store_failure", "description")


@app.command()
def create(
    file: PlanFile, *, dry_run: DryRun = False, server: Server = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Create a plan from a file."""
    with connect(server, token, dry_run=dry_run) as client:
        plan, _ = _read_plan(file)
        action = ManagePlanRequest.CreatePlan(plan=plan)
        created = client.manage_plan(ManagePlanRequest(create=action)).create.plan
    (print_json if as_json else _print_plan)(created)


@app.command()
def get(
    name: Name,
    *,
    version: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which version. 0 means the one in force.")] = 0,
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show one plan. Its JSON is valid input for create and update."""
    with connect(server, token) as client:
        action = ManagePlanRequest.GetPlan(name=name, version=version)
        plan = client.manage_plan(ManagePlanRequest(get=action)).get.plan
        print_as(output_format(output, as_json=as_json), plan, _print_plan)
    report_unreadable([plan])


@app.command("list")
def list_plans(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List plans by name."""
    with connect(server, token) as client:
        action = ManagePlanRequest.ListPlans(page_size=page_size, page_token=page_token)
        page = client.manage_plan(ManagePlanRequest(list=action)).list
        print_as(output_format(output, as_json=as_json), page, _print_page)
    report_unreadable(page.plans)


@app.command()
def update(
    file: PlanFile,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Create a new version of a plan from a file, in force at once.

    Of limits, on_store_failure and description, those that the file omits do not change. If the file has an etag, the
    update is refused if the plan has changed since. One that cuts a limit by more than half, lifts one, or touches many
    keys has to be confirmed.
    """
    with connect(server, token, dry_run=dry_run) as client:
        plan, fields = _read_plan(file)
        mask = FieldMask(paths=[name for name in _UPDATABLE if name in fields])

        def send(confirmation: str) -> Plan:
            action = ManagePlanRequest.UpdatePlan(plan=plan, update_mask=mask, confirmation=confirmation)
            return client.manage_plan(ManagePlanRequest(update=action)).update.plan

        updated = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print_plan)(updated)


@app.command()
def rollback(
    name: Name,
    *,
    to: Annotated[
        int, typer.Option("--to", min=0, max=2**63 - 1, help="Which version. 0 means the one before that in force.")
    ] = 0,
    etag: Annotated[str, typer.Option(help="Refuse if the plan has changed since this etag was read.")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Put an earlier version of a plan in force again, at once, as a new version."""
    with connect(server, token, dry_run=dry_run) as client:

        def send(confirmation: str) -> Plan:
            action = ManagePlanRequest.RollBackPlan(name=name, version=to, etag=etag, confirmation=confirmation)
            return client.manage_plan(ManagePlanRequest(roll_back=action)).roll_back.plan

        plan = confirmed(send, yes=yes or dry_run)
    (print_json if as_json else _print_plan)(plan)


@app.command()
def delete(
    name: Name,
    *,
    etag: Annotated[str, typer.Option(help="Refuse if the plan has changed since this etag was read.")] = "",
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete a plan that no key uses, and show it as it was."""
    with connect(server, token, dry_run=dry_run) as client:
        action = ManagePlanRequest.DeletePlan(name=name, etag=etag)
        plan = client.manage_plan(ManagePlanRequest(delete=action)).delete.plan
    (print_json if as_json else _print_plan)(plan)


@app.command()
def simulate(
    name: Name,
    *,
    file: Annotated[
        typer.FileText,
        typer.Option(
            metavar="FILE", help="The changed plan, as for update; its limits are tried. - is standard input."
        ),
    ],
    last: Annotated[str, typer.Option(metavar="DURATION", help="Replay the calls since then: 24h, 7d, 30m.")] = "24h",
    top: Annotated[int, typer.Option(min=0, max=1000, help="How many keys to list. 0 means 20.")] = 0,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show what other limits would have denied of the calls that a plan's keys made. Changes nothing.

    Counts have no times within a minute: the truth lies between the best case and the worst.
    """
    with connect(server, token) as client:
        plan, _ = _read_plan(file)
        request = SimulatePlanRequest(name=name, limits=plan.limits, top=top)
        try:
            request.start_time.FromDatetime(datetime.now(UTC) - parse_duration(last).ToTimedelta())
        except (ValueError, OverflowError):
            raise CommandError.usage(
                f"--last: {last!r} is not a duration back from now; write 24h, 7d or 30m"
            ) from None
        found = client.simulate_plan(request)
    (print_json if as_json else _print_simulation)(found)


@app.command("test")
def try_plan(
    file: Annotated[
        typer.FileText,
        typer.Argument(metavar="FILE", help="The plan, as for `create` or `apply`; - is standard input."),
    ],
    *,
    plan: Annotated[str, typer.Option("--plan", help="Which plan, if the file has several.")] = "",
    resource: Annotated[str, typer.Option("--resource", help="The resource of the calls.")] = "",
    cost: Annotated[int, typer.Option("--cost", min=0, max=MAX_TOKENS, help="Tokens that each call takes.")] = 1,
    calls: Annotated[int, typer.Option("--calls", min=1, max=100_000, help="How many calls come at once.")] = 1,
) -> None:
    """Show what a plan in a file would decide, without a server: calls of a new key, by buckets in memory.

    Exits with 1 if the last call is denied, 0 if it is allowed.
    """
    from ratelimit_service.cli import trials  # noqa: PLC0415  the engine, which other commands do not need
    from ratelimit_service.cli.configuration.documents import read_one  # noqa: PLC0415
    from ratelimit_service.cli.configuration.item import Kind  # noqa: PLC0415

    with report_errors():
        trials.try_plan(read_one(file, Kind.PLAN, plan).plan, resource, cost, calls)


def _print_simulation(found: SimulatePlanResponse) -> None:
    level = SimulatePlanResponse.Level.Name(found.level).lower()
    print_fields(
        [
            ("from", format_time(found.start_time)),
            ("until", f"{format_time(found.end_time)}, by {level}"),
            ("calls", f"{found.effect.calls:,} by {found.key_count:,} keys"),
            ("denied", f"{found.effect.denied:,}, as counted"),
            ("would be", f"{_range(found.effect)} denied"),
            ("first time", f"{found.first_time:,} to {found.perhaps_first_time:,} keys of which none was denied"),
        ]
    )
    typer.echo()
    print_table(
        ("LIMIT", "CALLS", "DENIED", "WOULD BE"),
        ((each.limit + " (shadow)" * each.shadow, *_columns(each.effect)) for each in found.limits),
    )
    if found.keys:
        typer.echo()
        print_table(
            ("KEY", "SUBJECT", "CALLS", "DENIED", "WOULD BE", ""),
            (
                (each.key_id, each.subject, *_columns(each.effect), "first time" * each.first_time)
                for each in found.keys
            ),
        )
    for note in found.notes:
        typer.echo(f"\n{note}")


def _columns(effect: SimulatePlanResponse.Effect) -> tuple[str, str, str]:
    return f"{effect.calls:,}", f"{effect.denied:,}", _range(effect)


def _range(effect: SimulatePlanResponse.Effect) -> str:
    if effect.best == effect.worst:
        return f"{effect.best:,}"
    return f"{effect.best:,} to {effect.worst:,}"


def _read_plan(file: typer.FileText) -> tuple[Plan, frozenset[str]]:
    from ratelimit_service.cli.message_file import read_message  # noqa: PLC0415  few commands read files

    plan = Plan()
    fields = read_message(file, plan, "a plan with its name and limits")
    return plan, fields


def _print_plan(plan: Plan) -> None:
    print_fields(
        [
            ("plan", plan.name),
            ("version", str(plan.version)),
            ("description", plan.description),
            *(("limit", limit) for limit in _limits(plan)),
            ("on store failure", Plan.OnStoreFailure.Name(plan.on_store_failure)),
            ("created", format_time(plan.create_time)),
            ("changed", format_time(plan.update_time)),
            ("etag", plan.etag),
        ]
    )


def _limits(plan: Plan) -> list[str]:
    return [CANNOT_BE_READ] if is_unreadable(plan) else [describe_limit(limit) for limit in plan.limits]


def _print_page(page: ManagePlanResponse.PlanPage) -> None:
    print_table(
        ("PLAN", "VERSION", "LIMITS", "ON STORE FAILURE", "DESCRIPTION"),
        (
            (
                plan.name,
                str(plan.version),
                "; ".join(_limits(plan)),
                Plan.OnStoreFailure.Name(plan.on_store_failure),
                plan.description,
            )
            for plan in page.plans
        ),
    )
    print_next_page(page.next_page_token)
