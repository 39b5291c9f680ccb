"""Output: messages as JSON and YAML, as tables and as named fields; a limit in one line."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import typer
from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit, Quota
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.times import format_duration

if TYPE_CHECKING:
    from rich.table import Table

M = TypeVar("M", bound=Message)
_GAP = "  "


class Format(StrEnum):
    """What --output accepts."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_as(output: Format, message: M, table: Callable[[M], None]) -> None:
    """Print a message in this format: as JSON, as YAML, or as TABLE prints it."""
    if output is Format.JSON:
        print_json(message)
    elif output is Format.YAML:
        from ratelimit_service.cli.yaml_text import document_of, yaml_text  # noqa: PLC0415  most output is a table

        typer.echo(yaml_text(document_of(message, with_defaults=True)), nl=False)
    else:
        table(message)


def print_json(message: Message) -> None:
    """Print a message in proto3 JSON, with the field names of the protos and fields that are zero."""
    from google.protobuf.json_format import MessageToJson  # noqa: PLC0415  as above

    typer.echo(MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings, in columns as wide as they need to be.

    What is not a terminal gets each row on one line, however long that is, and no colour.
    """
    shown = [[escaped(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_columns([headings, *shown])
        return
    table = _grid(show_header=True)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    _print_grid(table, shown)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print one named value a line, leaving out those that are empty."""
    shown = [(name, escaped(value)) for name, value in fields if value]
    if not sys.stdout.isatty():
        _print_columns(shown)
        return
    table = _grid(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    _print_grid(table, shown)


def print_next_page(page_token: str) -> None:
    """Print how to get the next page, if there is one."""
    if page_token:
        typer.echo(f"\nthere is more: --page-token {page_token}", err=True)


def print_secret(kind: str, secret: str) -> None:
    """Print the secret on a line of its own, easy to copy whole."""
    typer.echo(f"\n{kind}, shown now and never again:\n{secret}")


def coloured(text: str, colour: str) -> str:
    """TEXT in this colour, if standard output is a terminal and NO_COLOR is not set (https://no-color.org)."""
    return typer.style(text, fg=colour) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


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


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    lines = [[cell.replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        typer.echo(_GAP.join(cells).rstrip())


def _width(text: str) -> int:
    """Columns that TEXT takes: letters of East Asian scripts take two, and marks on other letters none."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415  most texts are ASCII

    wide = sum(unicodedata.east_asian_width(character) in {"W", "F"} for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in {"Mn", "Me", "Cf"} for character in text)


def _grid(*, show_header: bool) -> "Table":
    from rich.table import Table  # noqa: PLC0415  of use on a terminal only, where rows are folded

    return Table(box=None, pad_edge=False, header_style="bold", show_header=show_header)


def _print_grid(table: "Table", rows: Iterable[Sequence[str]]) -> None:
    """Print ROWS as they are: callers choose some of their texts, in which rich would find markup and emoji."""
    from rich.console import Console  # noqa: PLC0415  as above
    from rich.text import Text  # noqa: PLC0415  as above

    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
