"""The end of a page."""

from collections.abc import Iterable, Sequence

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 10_000
"""Columns of what goes to no terminal: nothing is folded there, so that each thing stays on one line."""


def print_json(message: Message) -> None:
    """Print a message in proto3 JSON, with the field names of the protos and those that are zero."""
    typer.echo(MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings, in columns as wide as they need to be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    _print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print one fact a line, leaving out those that are empty."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, value.replace("[", r"\["))
    _print(table)


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


def print_next_page(page_token: str) -> None:
    """Say how to go on, if there is more."""
    if page_token:
        typer.echo(f"\nthere is more: --page-token {page_token}", err=True)
