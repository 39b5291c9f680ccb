"""Usage as a table with sparklines, as JSON with numbers, and as CSV."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, timedelta
from typing import Any, Final

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest, QueryUsageResponse
from ratelimit_service._gen.ratelimit.v1.usage_pb2 import UsageFilter, UsageRow
from ratelimit_service.cli.output import print_table
from ratelimit_service.cli.times import format_time
from ratelimit_service.csv_text import write_csv

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_PLAIN: Final = "_.:-=+*#"
_COUNTS: Final = ("allowed", "denied", "cost", "shadow_denied", "degraded")
_CLAMPED: Final = ("clamped",)
_RESERVATIONS: Final = ("reserved", "settled")
_LIMIT_COUNTS: Final = ("denied", "shadow_denied")
_NUMBERS: Final = frozenset({*_COUNTS, *_CLAMPED, *_RESERVATIONS, "calls", "group_count"})
_MAX_VALUES: Final = 100
_FIELDS: Final = {
    QueryUsageRequest.KEY: ("key_id", "key_ids"),
    QueryUsageRequest.SUBJECT: ("subject", "subjects"),
    QueryUsageRequest.PLAN: ("plan", "plans"),
    QueryUsageRequest.RESOURCE: ("resource", "resources"),
    QueryUsageRequest.LIMIT: ("limit", "limits"),
    QueryUsageRequest.DOMAIN: ("domain", "domains"),
    QueryUsageRequest.RULE: ("rule", "rules"),
}
"""The field of a row, and that of the filter, for each dimension."""


class Report:
    """The response to a request, and the calls of each of its groups in each bin of a sparkline."""

    def __init__(self, request: QueryUsageRequest, response: QueryUsageResponse) -> None:
        self.response = response
        self.fields = [_FIELDS[dimension][0] for dimension in request.group_by]
        self.by_step = request.HasField("step") and bool(request.step.ToMicroseconds())
        self.by_limit = "limit" in self.fields or bool(request.filter.limits)
        self.sparklines: dict[tuple[str, ...], str] = {}
        self._dimensions = request.group_by

    @property
    def counts(self) -> tuple[str, ...]:
        """The counts that a row has; those of charges afterwards and of reservations only if there are any."""
        if self.by_limit:
            return _LIMIT_COUNTS
        total = self.response.total
        clamped = _CLAMPED if total.clamped else ()
        reservations = _RESERVATIONS if total.reserved or total.settled else ()
        return (*_COUNTS, *clamped, *reservations)

    def values(self, row: UsageRow) -> tuple[str, ...]:
        """The values of a row's group."""
        return tuple(str(getattr(row, field)) for field in self.fields)

    def narrow(self, chosen: UsageFilter) -> bool:
        """Leave only the groups of this report in a filter. False if they are too many for one."""
        rows = [row for row in self.response.rows if not row.others]
        for dimension in self._dimensions:
            field, plural = _FIELDS[dimension]
            values = list(dict.fromkeys(getattr(row, field) for row in rows))
            if len(values) > _MAX_VALUES:
                return False
            chosen.ClearField(plural)  # type: ignore[arg-type]  # one of the names above
            getattr(chosen, plural).extend(values)
        return True

    def add_bins(self, bins: QueryUsageResponse) -> None:
        """Draw the sparklines from the response to a request with a step."""
        starts = sorted({row.start_time.ToMicroseconds() for row in bins.rows})
        if not starts:
            return
        step = spark_step(self.response) // timedelta(microseconds=1)
        first = bins.start_time.ToMicroseconds()
        width = (starts[-1] - first) // step + 1
        calls: dict[tuple[str, ...], list[int]] = {}
        for row in bins.rows:
            line = calls.setdefault(self.values(row), [0] * width)
            line[(row.start_time.ToMicroseconds() - first) // step] += row.allowed + row.denied
        self.sparklines = {values: sparkline(line) for values, line in calls.items()}


def spark_step(response: QueryUsageResponse) -> timedelta:
    """The length of a bin of a sparkline, so that it has a few dozen: 5 minutes, 15, an hour, 6 hours, or days."""
    length = response.end_time.ToDatetime(UTC) - response.start_time.ToDatetime(UTC)
    steps = [timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6)]
    return next((step for step in steps if length <= 32 * step), timedelta(days=-(-length // (32 * timedelta(days=1)))))


def sparkline(values: Sequence[int]) -> str:
    """One character for each value, from nothing (a blank) to the highest of them."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        _BLOCKS.encode(encoding)
        characters = _BLOCKS
    except UnicodeEncodeError:
        characters = _PLAIN
    top = max(values, default=0)
    return "".join(characters[(value * len(characters) - 1) // top] if value > 0 else " " for value in values)


def print_report(report: Report) -> None:
    """Print the table, the total, and what was counted from when to when."""
    response = report.response
    if not response.rows:
        typer.echo("nothing was counted")
    else:
        lead = ["TIME"] * report.by_step + [field.upper() for field in report.fields]
        heads = [*lead, *([] if report.by_limit else ["CALLS"]), *(name.upper() for name in report.counts)]
        heads += ["DENIED %"] * (not report.by_limit)
        heads += ["DENIALS OVER TIME" if report.by_limit else "CALLS OVER TIME"] * bool(report.sparklines)
        print_table(heads, [_cells(report, row) for row in response.rows] + _total(report, len(lead)))
    typer.echo(_footer(response), err=True)


def _cells(report: Report, row: UsageRow) -> list[str]:
    values = list(report.values(row))
    if row.others and values:
        shown = {report.values(each) for each in report.response.rows if not each.others}
        values[0] = f"({report.response.group_count - len(shown):,} others)"
    lead = [format_time(row.start_time)] * report.by_step + values
    line = report.sparklines.get(report.values(row), "") if not row.others else ""
    return [*lead, *_figures(report, row), *[line] * bool(report.sparklines)]


def _figures(report: Report, row: UsageRow) -> list[str]:
    figures = [f"{getattr(row, name):,}" for name in report.counts]
    if report.by_limit:
        return figures
    calls = row.allowed + row.denied
    return [f"{calls:,}", *figures, f"{100 * row.denied / calls:.1f}" if calls else ""]


def _total(report: Report, lead: int) -> list[list[str]]:
    """The row of the total, unless it is the only row."""
    if not lead:
        return []
    blanks = [""] * bool(report.sparklines)
    return [["total", *[""] * (lead - 1), *_figures(report, report.response.total), *blanks]]


def _footer(response: QueryUsageResponse) -> str:
    level = QueryUsageResponse.Level.Name(response.level).lower()
    text = f"\n{format_time(response.start_time)} to {format_time(response.end_time)}, counted by {level}"
    if response.HasField("complete_until"):
        text += f"; complete until {format_time(response.complete_until)}"
    for loss in response.losses:
        calls = f"{loss.calls:,} calls" if loss.calls else "an unknown number of calls"
        text += f"\nlost: {calls} of {format_time(loss.start_time)} to {format_time(loss.end_time)} ({loss.cause})"
    return text


def print_report_json(report: Report) -> None:
    """Print an object with `rows`; counts are numbers, and zeros are there."""
    typer.echo(json.dumps(_report_document(report), indent=2, ensure_ascii=False))


def print_report_yaml(report: Report) -> None:
    """Print the same as YAML."""
    from ratelimit_service.cli.yaml_text import yaml_text  # noqa: PLC0415  most output is a table

    typer.echo(yaml_text(_report_document(report)), nl=False)


def _report_document(report: Report) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  as above

    found = MessageToDict(report.response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    del found["next_page_token"]
    numbered: dict[str, Any] = _with_numbers(found)
    return numbered


def _with_numbers(value: Any) -> Any:  # noqa: ANN401  JSON
    """64-bit integers, which proto3 JSON has as texts, as numbers."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: int(item) if name in _NUMBERS else _with_numbers(item) for name, item in value.items()}
    return value


def print_csv(report: Report) -> None:
    """Print a line for each row, under the names of its fields. Times are RFC 3339. No cell is a formula."""
    write_csv(sys.stdout, _csv_rows(report), line_end="\n")


def _csv_rows(report: Report) -> Iterator[Sequence[object]]:
    yield ["start_time", *report.fields, *report.counts, *["others"] * bool(report.fields)]
    for row in report.response.rows:
        counts = [getattr(row, name) for name in report.counts]
        others = [str(row.others).lower()] * bool(report.fields)
        yield [row.start_time.ToJsonString(), *report.values(row), *counts, *others]
