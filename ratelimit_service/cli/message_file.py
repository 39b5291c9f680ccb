"""A message in a YAML or JSON file, in proto3 JSON's shape."""

import typer
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from ratelimit_service.cli.fault import Fault


def read_message(file: typer.FileText, message: Message, what: str) -> frozenset[str]:
    """Read the file into MESSAGE, and return which of its fields the file names, be they empty.

    Raises Fault with the line or the field at fault. WHAT says what the file must hold.
    """
    name = "standard input" if file.name == "<stdin>" else file.name
    try:
        content = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Fault.usage(f"{name}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Fault.usage(f"{name}: is neither YAML nor JSON") from None
    if not isinstance(content, dict):
        raise Fault.usage(f"{name}: must hold {what}, not {type(content).__name__}")
    try:
        ParseDict(content, message)
    except (ParseError, AttributeError, TypeError) as error:
        raise Fault.usage(f"{name}: {error}") from None
    return frozenset(str(field) for field in content)
