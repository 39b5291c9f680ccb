"""Files that name many keys: those to create, as CSV, YAML or JSON, and the ids of those to change, one a line."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

import typer
from google.protobuf.json_format import ParseDict

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service.bounded_yaml import Plain
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.message_file import file_name, parse_file, read_text
from ratelimit_service.cli.options import parse_expires
from ratelimit_service.message_nodes import UNREADABLE

_LABEL = "label."
_MAX_BYTES = 32 * 1024 * 1024
"""Size of a file: a hundred thousand keys and more."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9:.]+ ?([Zz]|[-+][0-9:]+)?)?")
_TIMES = ("expire_time", "expireTime")
_COLUMNS = ("subject", "plan", "description", "expires")


def read_drafts(file: typer.FileText, defaults: ManageKeyRequest.CreateKey) -> list[ManageKeyRequest.CreateKey]:
    """The keys to create that FILE names. What it leaves out is taken from DEFAULTS; labels are added to theirs.

    A CSV file (`*.csv`) has a line of headings: subject, plan, description, expires (a time, or 30d from now on), and
    `label.<name>` for each label. Any other is YAML or JSON: a list of keys in the shape of CreateKey, or an object
    with that list under `keys`. Raises CommandError with the line or field that is invalid.
    """
    name = file_name(file)
    text = read_text(file, _MAX_BYTES)
    drafts = list(_csv_drafts(name, text) if name.endswith(".csv") else _yaml_drafts(name, text))
    if not drafts:
        raise CommandError.usage(f"{name}: names no key")
    return [_with_defaults(draft, defaults) for draft in drafts]


def read_key_ids(file: typer.FileText) -> list[str]:
    """The ids in FILE: the first word of each line that has one and does not begin with `#`."""
    words = [line.split() for line in read_text(file, _MAX_BYTES).splitlines()]
    return [found[0] for found in words if found and not found[0].startswith("#")]


def _with_defaults(
    draft: ManageKeyRequest.CreateKey, defaults: ManageKeyRequest.CreateKey
) -> ManageKeyRequest.CreateKey:
    merged = ManageKeyRequest.CreateKey()
    merged.CopyFrom(defaults)
    merged.MergeFrom(draft)
    return merged


def _csv_drafts(name: str, text: str) -> Iterator[ManageKeyRequest.CreateKey]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        unknown = [column for column in rows.fieldnames or () if not _is_column(column)]
        if unknown:
            raise CommandError.usage(
                f"{name}, line 1: unknown column {unknown[0]!r}; use {', '.join(_COLUMNS)} and {_LABEL}<name>"
            )
        for row in rows:
            if None in row:
                raise CommandError.usage(f"{name}, line {rows.line_num}: has more fields than line 1 has columns")
            yield _csv_draft(f"{name}, line {rows.line_num}", {key: value or "" for key, value in row.items()})
    except csv.Error as error:
        raise CommandError.usage(f"{name}, line {rows.line_num}: {error}") from None


def _is_column(column: str) -> bool:
    return column in _COLUMNS or (column.startswith(_LABEL) and column != _LABEL)


def _csv_draft(where: str, row: Mapping[str, str]) -> ManageKeyRequest.CreateKey:
    labels = {column.removeprefix(_LABEL): value for column, value in row.items() if column.startswith(_LABEL)}
    draft = ManageKeyRequest.CreateKey(
        subject=row.get("subject", ""),
        plan=row.get("plan", ""),
        description=row.get("description", ""),
        labels={label: value for label, value in labels.items() if value},
    )
    if row.get("expires"):
        try:
            draft.expire_time.CopyFrom(parse_expires(row["expires"]))
        except CommandError as error:
            raise CommandError.usage(f"{where}: {error.lines[0]}") from None
    return draft


def _yaml_drafts(name: str, text: str) -> Iterator[ManageKeyRequest.CreateKey]:
    content = parse_file(name, text, _MAX_BYTES)
    if isinstance(content, dict) and set(content) == {"keys"}:
        content = content["keys"]
    if not isinstance(content, list):
        raise CommandError.usage(f"{name}: must hold a list of keys, not {type(content).__name__}")
    for position, item in enumerate(content):
        where = f"{name}, key {position + 1}"
        if not isinstance(item, dict):
            raise CommandError.usage(f"{where}: must be an object, not {type(item).__name__}")
        content = {name: _text_of_time(value) if name in _TIMES else value for name, value in item.items()}
        try:
            yield ParseDict(content, ManageKeyRequest.CreateKey())
        except UNREADABLE as error:
            raise CommandError.usage(f"{where}: {str(error)[:500]}") from None


def _text_of_time(value: Plain) -> Plain:
    """A time as YAML may have it, with a blank or of a day alone, as proto3 JSON has it: in UTC unless it says more."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return value
    try:
        time = datetime.fromisoformat(value.upper().replace(" Z", "Z"))
    except ValueError:
        return value
    return time.isoformat() + ("" if time.tzinfo else "Z")
