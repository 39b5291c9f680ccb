"""`ratelimit-service usage`: how many calls were counted, as a table with sparklines, as JSON or as CSV."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest
from ratelimit_service._gen.ratelimit.v1.usage_pb2 import UsageFilter
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.options import AsJson, Output, Server, Token, output_format, parse_option_time
from ratelimit_service.cli.output import Format
from ratelimit_service.cli.times import parse_duration
from ratelimit_service.cli.usage_output import (
    Report,
    print_csv,
    print_report,
    print_report_json,
    print_report_yaml,
    spark_step,
)

_WATCH_SECONDS: Final = 5.0
_CLEAR: Final = "\x1b[H\x1b[2J"
_MAX_TOP: Final = 100
_PAGE: Final = 1000
_PRINTED: Final = {Format.TABLE: print_report, Format.JSON: print_report_json, Format.YAML: print_report_yaml}


class Outcome(StrEnum):
    """What --outcome accepts."""

    ALLOWED = "allowed"
    DENIED = "denied"
    SHADOW_DENIED = "shadow_denied"
    DEGRADED = "degraded"


class Measure(StrEnum):
    """What --order accepts."""

    CALLS = "calls"
    ALLOWED = "allowed"
    DENIED = "denied"
    COST = "cost"
    SHADOW_DENIED = "shadow_denied"
    DEGRADED = "degraded"


def _values(name: str, what: str) -> object:
    return typer.Option(name, help=f"Only {what}. May be repeated.")


def usage(
    *,
    last: Annotated[str, typer.Option(help="How long a range, up to now: 30m, 6h, 7d. Default: 6h.")] = "",
    since: Annotated[str, typer.Option("--from", help="The start: 2026-11-25T08:00Z, or so long ago: 6h.")] = "",
    until: Annotated[str, typer.Option("--to", help="The end, like --from. Default: now.")] = "",
    step: Annotated[str, typer.Option(help="A row for each 5m, 1h, 1d, ... Default: one row a group.")] = "",
    by: Annotated[str, typer.Option(help="Groups: key,subject,plan,resource,limit or domain,rule,limit.")] = "",
    top: Annotated[int, typer.Option(min=0, max=_MAX_TOP, help="How many groups. 0 means all, by name.")] = 20,
    order: Annotated[Measure, typer.Option(help="What the top is of.")] = Measure.CALLS,
    key: Annotated[list[str] | None, _values("--key", "these keys (their key_id)")] = None,
    subject: Annotated[list[str] | None, _values("--subject", "these subjects")] = None,
    plan: Annotated[list[str] | None, _values("--plan", "these plans")] = None,
    resource: Annotated[list[str] | None, _values("--resource", "these resources")] = None,
    limit: Annotated[list[str] | None, _values("--limit", "denials by these limits or reasons")] = None,
    domain: Annotated[list[str] | None, _values("--domain", "these domains of descriptor rules")] = None,
    rule: Annotated[list[str] | None, _values("--rule", "these rules")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only groups with such calls.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every 5 seconds, until Ctrl-C.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show how many calls were counted, and how they were decided."""
    with connect(server, token) as client:
        printed_as = output_format(output, as_json=as_json)
        chosen = UsageFilter(
            key_ids=key,
            subjects=subject,
            plans=plan,
            resources=resource,
            limits=limit,
            domains=domain,
            rules=rule,
            outcome=UsageFilter.Outcome.Value(outcome.name) if outcome else UsageFilter.OUTCOME_UNSPECIFIED,
        )
        groups = [_dimension(name.strip()) for name in by.split(",") if name.strip()]

        def ask() -> Report:
            request = QueryUsageRequest(filter=chosen, group_by=groups)
            _set_range(request, last, since, until, step)
            if groups and top:
                request.top = top
                request.order_by = QueryUsageRequest.Measure.Value(order.name)
                request.include_others = outcome is None
            return _read(client, request, sparklines=not (step or as_csv) and printed_as is Format.TABLE)

        show = print_csv if as_csv else _PRINTED[printed_as]
        _repeat(lambda: show(ask()), watch=watch)


def _repeat(show: Callable[[], None], *, watch: bool) -> None:
    if not watch:
        show()
        return
    try:
        while True:
            if sys.stdout.isatty():
                typer.echo(_CLEAR, nl=False)
            show()
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _read(client: Client, request: QueryUsageRequest, *, sparklines: bool) -> Report:
    """Ask for all pages; and for the bins of the same groups, from which sparklines are drawn."""
    response = client.query_usage(request)
    token = response.next_page_token
    while token:
        page = client.query_usage(_page_of(request, token))
        response.rows.extend(page.rows)
        token = page.next_page_token
    response.next_page_token = ""
    report = Report(request, response)
    if sparklines and response.rows:
        bins = QueryUsageRequest(
            filter=request.filter, group_by=request.group_by, start_time=response.start_time, end_time=response.end_time
        )
        bins.filter.outcome = UsageFilter.OUTCOME_UNSPECIFIED
        bins.step.FromTimedelta(spark_step(response))
        if report.narrow(bins.filter):
            report.add_bins(client.query_usage(_whole(bins)))
    return report


def _page_of(request: QueryUsageRequest, token: str) -> QueryUsageRequest:
    page = QueryUsageRequest()
    page.CopyFrom(request)
    page.page_token = token
    return page


def _whole(request: QueryUsageRequest) -> QueryUsageRequest:
    if request.group_by:
        request.page_size = _PAGE
    return request


def _set_range(request: QueryUsageRequest, last: str, since: str, until: str, step: str) -> None:
    """Set the range and the step. Raises CommandError for what is no time or duration."""
    if last and since:
        raise CommandError.usage("--last and --from contradict each other; give one of them")
    now = datetime.now(UTC)
    if until:
        request.end_time.CopyFrom(_past("--to", until))
    if since:
        request.start_time.CopyFrom(_past("--from", since))
    elif last:
        end = request.end_time.ToDatetime(UTC) if until else now
        request.start_time.FromDatetime(end - _duration("--last", last).ToTimedelta())
    if step:
        request.step.CopyFrom(_duration("--step", step))


def _duration(option: str, value: str) -> Duration:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise CommandError.usage(f"{option}: {error}") from None


def _past(option: str, value: str) -> Timestamp:
    return parse_option_time(option, value.removeprefix("-"), past=True)


def _dimension(name: str) -> QueryUsageRequest.Dimension.ValueType:
    known = [value for value in QueryUsageRequest.Dimension.keys() if not value.endswith("UNSPECIFIED")]  # noqa: SIM118
    if name.upper() not in known:
        raise CommandError.usage(f"--by {name}: use {', '.join(value.lower() for value in known)}")
    return QueryUsageRequest.Dimension.Value(name.upper())
