"""Messages as proto3 JSON, from and to callers: what is read is bounded, and each mistake is named by its field."""

import json
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from ratelimit_service.bounded_yaml import Node, Plain, YamlError
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.message_nodes import UNREADABLE, UnfitField, fill

MAX_DEPTH: Final = 64
"""Objects and lists within each other: rules of 16 levels take 36."""

MAX_VALUES: Final = 4_096
"""Values of one message, each an element of a list or the value of a field: a batch of 256 checks with all their fields
has half as many. To find out which of them is wrong takes a tenth of a second at most."""

_MESSAGE: Final = "message"
"""The field that is named for what is wrong with a message as a whole."""

_MAX_SHOWN: Final = 80

_Request = TypeVar("_Request", bound=Message)


def read_message(data: bytes, kind: type[_Request]) -> _Request:
    """The message of this KIND that DATA is in JSON. Fields have the names of the protos.

    Raises InvalidArgument for what is no such message, with the field that does not fit.
    """
    value = _read_json(data)
    if not isinstance(value, dict):
        raise _invalid(f"is {_name_of(value)}; send an object with the fields of {kind.DESCRIPTOR.full_name}")
    message = kind()
    try:
        ParseDict(value, message)
    except UNREADABLE as error:
        raise _explained(value, kind, str(error)) from None
    return message


def write_message(message: Message) -> bytes:
    """MESSAGE in JSON, with the field names of the protos, and fields that are zero, such as `"allowed": false`.

    Whole numbers of 64 bits are texts, as proto3 JSON has them.
    """
    return to_json(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def to_json(value: Plain) -> bytes:
    """VALUE as a line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read_json(data: bytes) -> Plain:
    """The value that DATA is. Raises InvalidArgument for what is no JSON, repeats a name, or is beyond the bounds."""
    if not data.strip():
        raise _invalid("is empty; send a JSON object, {} for a message without fields")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        raise _invalid("is not UTF-8") from None
    except ValueError as error:
        raise _invalid(f"is not JSON: {str(error)[:_MAX_SHOWN]}") from None
    _check_bounds(value)
    if b"\\" in data:
        try:
            to_json(value)
        except UnicodeEncodeError:
            raise _invalid("has half of a surrogate pair") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name[:_MAX_SHOWN]!r} is given twice")
        made[name] = value
    return made


def _no_constant(text: str) -> Plain:
    raise ValueError(f"{text} is no number of JSON")


def _check_bounds(root: Plain) -> None:
    level, depth, values = [root], 0, 1
    while level := [child for value in level for child in _children(value)]:
        depth, values = depth + 1, values + len(level)
        if depth > MAX_DEPTH:
            raise _too_deep()
        if values > MAX_VALUES:
            raise _invalid(f"has more than {MAX_VALUES:,} values; send it in parts")


def _children(value: Plain) -> list[Plain]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _explained(value: dict[str, Plain], kind: type[Message], cause: str) -> InvalidArgument:
    """The error for a VALUE that is no message of this KIND: which field does not fit, or else the parser's CAUSE."""
    try:
        fill(kind(), _node(value))
    except UnfitField as error:
        return InvalidArgument.of(error.field, error.description)
    except YamlError as error:
        return _invalid(f"cannot be read: {error.problem}")
    return _invalid(f"cannot be read: {cause}")


def _node(value: Plain) -> Node:
    """VALUE as the files of the command line are read, so that mistakes are found and named by the same code."""
    if isinstance(value, dict):
        pairs = [(Node("scalar", 1, name, quoted=True), _node(child)) for name, child in value.items()]
        return Node("mapping", 1, pairs=pairs)
    if isinstance(value, list):
        return Node("list", 1, items=[_node(item) for item in value])
    if isinstance(value, str):
        return Node("scalar", 1, value, quoted=True)
    return Node("scalar", 1, json.dumps(value))


def _name_of(value: Plain) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _too_deep() -> InvalidArgument:
    return _invalid(f"has more than {MAX_DEPTH} objects and lists within each other")


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument.of(_MESSAGE, description)
