"""Plans and rules as documents that people read and compare: YAML, as `plans update` and `rules replace` take it."""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from ratelimit_service._gen.ratelimit.v1 import plan_pb2, rules_pb2
from ratelimit_service.api.key_admin.limit_messages import limit_to_proto
from ratelimit_service.api.key_admin.manage_rules import rules_from_proto, rules_to_proto
from ratelimit_service.bounded_yaml import YamlError, plain, read_yaml
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument

_CONTEXT: Final = 2
"""Unchanged lines that a difference shows around those that changed."""


def plan_yaml(name: str, limits: Iterable[Limit], on_store_failure: OnStoreFailure, description: str) -> str:
    """A plan as YAML."""
    message = plan_pb2.Plan(
        name=name,
        description=description,
        limits=map(limit_to_proto, limits),
        on_store_failure=plan_pb2.Plan.OnStoreFailure.Value(on_store_failure.name),
    )
    return _to_yaml(message)


def rules_yaml(rules: DomainRules, description: str) -> str:
    """The rules of a domain as YAML."""
    message = rules_to_proto(rules)
    message.description = description
    return _to_yaml(message)


def read_rules(text: str) -> tuple[DomainRules, str]:
    """Read the rules of a domain and their description. Raises InvalidArgument, with field `document` for the whole."""
    message = rules_pb2.DomainRules()
    try:
        content = plain(read_yaml(text))
    except YamlError as error:
        raise InvalidArgument.of("document", f"line {error.line}: {error.problem}") from None
    if not isinstance(content, dict):
        raise InvalidArgument.of("document", "holds no rules; begin with `domain:`")
    try:
        ParseDict(content, message)
    except (ParseError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("document", str(error)[:300]) from None
    return rules_from_proto(message), message.description


def _to_yaml(message: plan_pb2.Plan | rules_pb2.DomainRules) -> str:
    content = MessageToDict(message, preserving_proto_field_name=True)
    return yaml.dump(_numbers(content), sort_keys=False, allow_unicode=True, width=100, Dumper=_Dumper)


def _numbers(value: Any) -> Any:  # noqa: ANN401  whatever a document holds
    """The same with 64-bit numbers as numbers: proto3 JSON has them as texts, which YAML would put in quotes."""
    if isinstance(value, Mapping):
        return {
            name: int(one) if name in _WHOLE and isinstance(one, str) else _numbers(one) for name, one in value.items()
        }
    return [_numbers(one) for one in value] if isinstance(value, list) else value


_WHOLE: Final = {"capacity", "refill_tokens", "amount"}


class _Dumper(yaml.SafeDumper):
    """Indents lists, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, indentless=False)


class Line(NamedTuple):
    """A line of a difference. `kind` is same, minus, plus, or fold for unchanged lines that are left out."""

    number: int
    kind: str
    text: str


def difference(old: str, new: str) -> list[Line]:
    """Compare two documents line by line, and leave out what is far from any change. Empty when they are the same."""
    before, after = old.splitlines(), new.splitlines()
    lines: list[Line] = []
    for group in SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(_CONTEXT):
        start = group[0][3]
        end = max((line.number for line in lines if line.kind != "minus"), default=0)
        if start > end:
            lines.append(Line(start, "fold", f"# {start - end} lines, unchanged"))
        for tag, old_start, old_end, new_start, new_end in group:
            if tag == "equal":
                lines += [Line(new_start + at + 1, "same", text) for at, text in enumerate(after[new_start:new_end])]
                continue
            lines += [Line(old_start + at + 1, "minus", text) for at, text in enumerate(before[old_start:old_end])]
            lines += [Line(new_start + at + 1, "plus", text) for at, text in enumerate(after[new_start:new_end])]
    return lines
