"""Files that name many keys: those to create, as CSV, YAML or JSON, and the ids of those to change, one a line."""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

import typer
import yaml
from google.protobuf.json_format import ParseDict, ParseError

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.message_file import file_name
from ratelimit_service.cli.options import parse_expires

_LABEL = "label."
_COLUMNS = ("subject", "plan", "description", "expires")


def read_drafts(file: typer.FileText, defaults: ManageKeyRequest.CreateKey) -> list[ManageKeyRequest.CreateKey]:
    """The keys to create that FILE names. What it leaves out is taken from DEFAULTS; labels are added to theirs.

    A CSV file (`*.csv`) has a line of headings: subject, plan, description, expires (a time, or 30d from now on), and
    `label.<name>` for each label. Any other is YAML or JSON: a list of keys in the shape of CreateKey, or an object
    with that list under `keys`. Raises CommandError with the line or field that is invalid.
    """
    name = file_name(file)
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise CommandError.usage(f"{name}: is not UTF-8 text") from None
    drafts = list(_csv_drafts(name, text) if name.endswith(".csv") else _yaml_drafts(name, text))
    if not drafts:
        raise CommandError.usage(f"{name}: names no key")
    return [_with_defaults(draft, defaults) for draft in drafts]


def read_key_ids(file: typer.FileText) -> list[str]:
    """The ids in FILE: the first word of each line that has one and does not begin with `#`."""
    try:
        words = [line.split() for line in file]
    except UnicodeDecodeError:
        raise CommandError.usage(f"{file_name(file)}: is not UTF-8 text") from None
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
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CommandError.usage(f"{name}, line {line}: {error.problem}") from None
    except yaml.YAMLError:
        raise CommandError.usage(f"{name}: is neither YAML nor JSON") from None
    if isinstance(content, dict) and set(content) == {"keys"}:
        content = content["keys"]
    if not isinstance(content, list):
        raise CommandError.usage(f"{name}: must hold a list of keys, not {type(content).__name__}")
    for position, item in enumerate(content):
        where = f"{name}, key {position + 1}"
        if not isinstance(item, dict):
            raise CommandError.usage(f"{where}: must be an object, not {type(item).__name__}")
        try:
            yield ParseDict(
                {field: _text_of_time(value) for field, value in item.items()}, ManageKeyRequest.CreateKey()
            )
        except (ParseError, AttributeError, TypeError) as error:
            raise CommandError.usage(f"{where}: {error}") from None


def _text_of_time(value: Any) -> Any:  # noqa: ANN401  whatever YAML holds
    """A time that YAML has read as one, as text again."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    return f"{value.isoformat()}T00:00:00Z" if isinstance(value, date) else value
