"""Messages as YAML that `bounded_yaml` reads as the same message."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from ratelimit_service.bounded_yaml import Node, YamlError

_WHOLE: Final = frozenset(
    {
        *(FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64),
        *(FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32),
    }
)
_Field: TypeAlias = Any
"""The descriptor of a field, of which protobuf has two types that are used alike."""

_WIDTH: Final = 1_000_000
"""Columns before a text is folded: none is, so that a change of one word is a change of one line."""


def document_of(message: Message, *, with_defaults: bool = False) -> dict[str, Any]:
    """A message in proto3 JSON with the names of the protos, and whole numbers as numbers.

    WITH_DEFAULTS: fields that are zero as well, for scripts that read them.
    """
    found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=with_defaults)
    return {name: _with_numbers(value, message.DESCRIPTOR.fields_by_name[name]) for name, value in found.items()}


def yaml_text(document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """A document, or a list of them, as YAML, in the order of its fields."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Puts a text into quotes where `bounded_yaml` would read it as something else, as well as where YAML 1.1 would."""

    def ignore_aliases(self, data: object) -> bool:
        """Write what occurs twice twice: aliases are not read."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_plain(text) else '"')


def _is_plain(text: str) -> bool:
    try:
        return Node("scalar", 1, text).value == text
    except YamlError:
        return False


_Dumper.add_representer(str, _text)


def _with_numbers(value: Any, field: _Field) -> Any:  # noqa: ANN401  JSON
    """64-bit integers, which proto3 JSON has as texts, as numbers."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        item = kind.fields_by_name["value"]
        return {name: _with_numbers(value[name], item) for name in sorted(value)}  # protobuf keeps no order of them
    if isinstance(value, list):
        return [_with_number(one, field) for one in value]
    return _with_number(value, field)


def _with_number(value: Any, field: _Field) -> Any:  # noqa: ANN401  JSON
    if field.cpp_type in _WHOLE and isinstance(value, str):
        return int(value)
    kind = field.message_type
    if kind is None or not isinstance(value, dict) or kind.full_name.startswith("google.protobuf."):
        return value
    return {name: _with_numbers(one, kind.fields_by_name[name]) for name, one in value.items()}
