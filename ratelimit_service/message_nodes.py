"""From the nodes of a YAML or JSON document to a message: each mistake with its line, its field, and what was meant."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ratelimit_service.bounded_yaml import Node, YamlError, plain

_Descriptor: TypeAlias = Any
_Field: TypeAlias = Any
"""Descriptors, of which protobuf has two types each that are used alike."""

UNREADABLE: Final = (ParseError, AttributeError, TypeError, ValueError, OverflowError)
"""What `ParseDict` raises for content that does not fit a message."""

_MAX_SHOWN: Final = 80
_MAX_PROBLEM: Final = 500
_TEXTS: Final = frozenset({FieldDescriptor.CPPTYPE_STRING})
_KINDS: Final = {"scalar": "a single value", "list": "a list", "mapping": "an object"}


class UnfitField(YamlError):
    """A value that does not fit its field: `field` is the path of that, and `description` what is wrong with it."""

    def __init__(self, node: Node, field: str, description: str, problem: str = "") -> None:
        """PROBLEM is the same in a sentence that names the field, by default the two together."""
        super().__init__(node.line, problem or f"{field} {description}")
        self.field = field
        self.description = description


def fill(message: Message, root: Node, *, others: Sequence[str] = ()) -> frozenset[str]:
    """Read ROOT, a mapping in the shape of proto3 JSON, into MESSAGE. Returns the names of the fields that it sets.

    A field that is set to an empty value is among them. Raises YamlError with the line of what does not fit, UnfitField
    if that is one field. OTHERS are fields beside those of the message that may have been meant.
    """
    _check_object(root, message.DESCRIPTOR, "", others)
    try:
        ParseDict(plain(root), message)
    except UNREADABLE as error:  # what the fields break together, such as two of which one may be set
        raise YamlError(root.line, str(error)[:_MAX_PROBLEM]) from None
    fields = _fields_of(message.DESCRIPTOR)
    return frozenset(fields[key.text].name for key, _ in root.pairs)


def line_of(root: Node, path: str) -> int:
    """The line of the field at PATH, as errors of the service name it: `limits[0].token_bucket.capacity`.

    Of a field that is not there, the line of the nearest one around it.
    """
    node = root
    for part in path.replace("[", ".[").split("."):
        if part.startswith("[") and node.kind == "list":
            number = part[1:-1]
            if not number.isdecimal() or int(number) >= len(node.items):
                break
            node = node.items[int(number)]
        else:
            found = next((value for key, value in node.pairs if key.text == part.strip("[]")), None)
            if found is None:
                break
            node = found
    return node.line


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the KNOWN words, empty if none is near: `; did you mean ``capacity``?`."""
    near = get_close_matches(word.lower(), {one.lower(): one for one in known}, n=1)
    exact = next((one for one in known if near and one.lower() == near[0]), "")
    return f"; did you mean `{exact}`?" if exact else ""


def _check_object(node: Node, descriptor: _Descriptor, path: str, others: Sequence[str] = ()) -> None:
    fields = _fields_of(descriptor)
    for key, value in node.pairs:
        field = fields.get(key.text)
        if field is None:
            names = [*others, *(one.name for one in descriptor.fields)]
            where = f" in {path}" if path else ""
            name, hint = key.text[:_MAX_SHOWN], did_you_mean(key.text, names) or _choice(names)
            raise UnfitField(key, _below(path, name), f"unknown field{hint}", f"unknown field {name!r}{where}{hint}")
        _check_field(value, field, _below(path, field.name))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_field(node: Node, field: _Field, path: str) -> None:
    """Check the value of a field, whose PATH is for the message."""
    if node.is_null:
        return  # as if it were left out
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _require(node, "mapping", path)
        for key, value in node.pairs:
            _check_value(value, field.message_type.fields_by_name["value"], f"{path}.{key.text[:_MAX_SHOWN]}")
    elif field.is_repeated:
        _require(node, "list", path)
        for position, item in enumerate(node.items):
            _check_value(item, field, f"{path}[{position}]")
    else:
        _check_value(node, field, path)


def _check_value(node: Node, field: _Field, path: str) -> None:
    kind = field.message_type
    if kind is not None and not kind.full_name.startswith("google.protobuf."):
        _require(node, "mapping", path)
        _check_object(node, kind, path)
        return
    _require(node, "scalar", path)
    value = node.value
    if field.enum_type is not None and isinstance(value, str):
        names = [one.name for one in field.enum_type.values]
        if value not in names:
            choice = [name for name in names if not name.endswith("_UNSPECIFIED")]
            raise UnfitField(node, path, f"is {value[:_MAX_SHOWN]!r}{_choice(choice)}{did_you_mean(value, choice)}")
        return
    if field.cpp_type in _TEXTS and value is not None and not isinstance(value, str):
        raise UnfitField(node, path, f"is {node.text[:_MAX_SHOWN]}, which is no text; write it in quotes")
    owner = GetMessageClass(field.containing_type)()
    try:
        ParseDict({field.name: [value] if field.is_repeated else value}, owner)
    except UNREADABLE:
        raise UnfitField(node, path, f"is {node.text[:_MAX_SHOWN]!r}; write {_form(field)}") from None


def _require(node: Node, kind: str, path: str) -> None:
    if node.kind != kind:
        raise UnfitField(node, path, f"is {_KINDS[node.kind]}; write {_KINDS[kind]}")


def _form(field: _Field) -> str:
    """What a field accepts."""
    if field.message_type is not None:
        forms = {"google.protobuf.Duration": "a duration in seconds: 90s, 0.25s"}
        return forms.get(field.message_type.full_name, "a time: 2027-01-31T12:00:00Z")
    return "true or false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "a whole number within bounds"


def _choice(names: Sequence[str]) -> str:
    return f"; use {', '.join(names)}"


def _fields_of(descriptor: _Descriptor) -> dict[str, _Field]:
    """The fields by the names that proto3 JSON accepts."""
    return {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
