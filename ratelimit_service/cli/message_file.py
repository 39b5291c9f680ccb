"""A protobuf message in a YAML or JSON file."""

from typing import TextIO

import typer
from google.protobuf.message import Message

from ratelimit_service.bounded_yaml import MAX_BYTES, Plain, YamlError, plain, read_yaml
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.message_nodes import fill


def read_message(file: typer.FileText, message: Message, what: str) -> frozenset[str]:
    """Read the file, in the shape of proto3 JSON, into MESSAGE, and return the names of the fields that the file sets.

    A field that is set to an empty value is among them. WHAT is what the file must hold, for the error message.
    Raises CommandError with the invalid line and field.
    """
    name = file_name(file)
    text = read_text(file, MAX_BYTES)
    try:
        root = read_yaml(text)
        if root is None or root.kind != "mapping":
            found = "nothing" if root is None or root.is_null else f"a {root.kind}"
            raise CommandError.usage(f"{name}: must hold {what}, not {found}")
        return fill(message, root)
    except YamlError as error:
        raise CommandError.usage(f"{name}, line {error.line}: {error.problem}") from None


def read_text(file: TextIO, max_bytes: int) -> str:
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


def file_name(file: TextIO) -> str:
    """The name of the file in messages."""
    return "standard input" if file.name == "<stdin>" else file.name
