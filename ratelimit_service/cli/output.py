"""Output: messages as JSON, as tables and as named fields; a limit in one line."""

from collections.abc import Iterable, Sequence

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit, Quota
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.times import format_duration

_PIPE_WIDTH = 10_000
"""Columns of output that is not a terminal: nothing is wrapped there, so that each record stays on one line."""


def print_json(message: Message) -> None:
    """Print a message in proto3 JSON, with the field names of the protos and fields that are zero."""
    typer.echo(MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings, in columns as wide as they need to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_shown(cell) for cell in row))
    _print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print one named value a line, leaving out those that are empty."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, _shown(value))
    _print(table)


def print_next_page(page_token: str) -> None:
    """Print how to get the next page, if there is one."""
    if page_token:
        typer.echo(f"\nthere is more: --page-token {page_token}", err=True)


def print_secret(kind: str, secret: str) -> None:
    """Print the secret on a line of its own, easy to copy whole."""
    typer.echo(f"\n{kind}, shown now and never again:\n{secret}")


def describe_limit(limit: Limit) -> str:
    """The limit in one line: `burst: 20 tokens, 10 more every 1s, for orders.*`."""
    text = f"{limit.name}: {_describe_algorithm(limit)}"
    if limit.HasField("overdraft"):
        text += f", overdraft {'unbounded' if limit.overdraft.unbounded else format(limit.overdraft.tokens, ',')}"
    if limit.resource not in {"", "*"}:
        text += f", for {limit.resource}"
    return text + " (shadow)" * (limit.mode == Limit.SHADOW)


def _describe_algorithm(limit: Limit) -> str:
    if limit.WhichOneof("algorithm") == "quota":
        window = Quota.Window.Name(limit.quota.window).lower()
        unit = " calls" * (limit.counts == Limit.CALLS)
        return f"{limit.quota.amount:,}{unit} {'an' if window == 'hour' else 'a'} {window}"
    if limit.WhichOneof("algorithm") == "concurrency":
        hold = format_duration(limit.concurrency.default_hold)
        return f"{limit.concurrency.max:,} calls at once, each held for {hold} unless it is settled"
    bucket = limit.token_bucket
    unit = "calls" if limit.counts == Limit.CALLS else "tokens"
    period = format_duration(bucket.refill_period)
    return f"{bucket.capacity:,} {unit}, {bucket.refill_tokens:,} more every {period}"


def _shown(text: str) -> str:
    """TEXT as a terminal may have it, with markup as it is."""
    return escaped(text).replace("[", r"\[")


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = _PIPE_WIDTH
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())
