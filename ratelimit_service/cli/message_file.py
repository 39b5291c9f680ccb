"""A protobuf message in a YAML or JSON file."""

import typer
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from ratelimit_service.cli.errors import CommandError


def read_message(file: typer.FileText, message: Message, what: str) -> frozenset[str]:
    """Read the file, in the shape of proto3 JSON, into MESSAGE, and return the names of the fields that the file sets.

    A field that is set to an empty value is among them. WHAT is what the file must hold, for the error message.
    Raises CommandError with the invalid line or field.
    """
    name = file_name(file)
    try:
        content = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CommandError.usage(f"{name}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise CommandError.usage(f"{name}: is neither YAML nor JSON") from None
    if not isinstance(content, dict):
        raise CommandError.usage(f"{name}: must hold {what}, not {type(content).__name__}")
    try:
        ParseDict(content, message)
    except (ParseError, AttributeError, TypeError) as error:
        raise CommandError.usage(f"{name}: {error}") from None
    return frozenset(str(field) for field in content)


def file_name(file: typer.FileText) -> str:
    """The name of the file in messages."""
    return "standard input" if file.name == "<stdin>" else file.name
