"""A protobuf message in a YAML or JSON file."""

import typer
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from ratelimit_service.bounded_yaml import MAX_BYTES, Plain, YamlError, plain, read_yaml
from ratelimit_service.cli.errors import CommandError

UNREADABLE = (ParseError, AttributeError, TypeError, ValueError, OverflowError)
"""What `ParseDict` raises for content that does not fit a message."""

_MAX_SHOWN = 500


def read_message(file: typer.FileText, message: Message, what: str) -> frozenset[str]:
    """Read the file, in the shape of proto3 JSON, into MESSAGE, and return the names of the fields that the file sets.

    A field that is set to an empty value is among them. WHAT is what the file must hold, for the error message.
    Raises CommandError with the invalid line or field.
    """
    name = file_name(file)
    content = parse_file(name, read_text(file, MAX_BYTES), MAX_BYTES)
    if not isinstance(content, dict):
        raise CommandError.usage(f"{name}: must hold {what}, not {type(content).__name__}")
    try:
        ParseDict(content, message)
    except UNREADABLE as error:
        raise CommandError.usage(f"{name}: {str(error)[:_MAX_SHOWN]}") from None
    return frozenset(content)


def read_text(file: typer.FileText, max_bytes: int) -> str:
    """The text of a file of at most MAX_BYTES; no more is read. Raises CommandError for another encoding and beyond."""
    name = file_name(file)
    try:
        text = file.read(max_bytes + 1)
    except UnicodeDecodeError:
        raise CommandError.usage(f"{name}: is not UTF-8 text") from None
    if len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise CommandError.usage(f"{name}: has more than the {max_bytes:,} bytes allowed")
    return text


def parse_file(name: str, text: str, max_bytes: int) -> Plain:
    """The YAML or JSON that TEXT is. Raises CommandError with the line of what is invalid or not supported."""
    try:
        return plain(read_yaml(text, max_bytes))
    except YamlError as error:
        raise CommandError.usage(f"{name}, line {error.line}: {error.problem}") from None


def file_name(file: typer.FileText) -> str:
    """The name of the file in messages."""
    return "standard input" if file.name == "<stdin>" else file.name
