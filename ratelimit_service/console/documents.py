"""Plans and rules as documents that people read and compare: YAML, as `plans update` and `rules replace` take it."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from ratelimit_service._gen.ratelimit.v1 import plan_pb2, rules_pb2
from ratelimit_service.api.key_admin.limit_messages import limit_to_proto
from ratelimit_service.api.key_admin.requests import check_lists
from ratelimit_service.api.key_admin.rules_messages import rules_from_proto, rules_to_proto
from ratelimit_service.bounded_yaml import YamlError, plain, read_yaml
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument

_Opcode: TypeAlias = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]

_MAX_COMPARED: Final = 250_000
"""Lines of one document times lines of the other, up to which every line is compared with every other."""

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
    check_lists(message)
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
    end = 0
    for group in _Grouped(before, after).get_grouped_opcodes(_CONTEXT) if before != after else ():
        start = group[0][3]
        if start > end:
            lines.append(Line(start, "fold", f"# {start - end} lines, unchanged"))
        end = group[-1][4]
        for tag, old_start, old_end, new_start, new_end in group:
            if tag == "equal":
                lines += [Line(new_start + at + 1, "same", text) for at, text in enumerate(after[new_start:new_end])]
                continue
            lines += [Line(old_start + at + 1, "minus", text) for at, text in enumerate(before[old_start:old_end])]
            lines += [Line(new_start + at + 1, "plus", text) for at, text in enumerate(after[new_start:new_end])]
    return lines


class _Grouped(SequenceMatcher[str]):
    """Groups what `_opcodes` finds."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__(None, "", "")
        self._codes = _opcodes(before, after)

    def get_opcodes(self) -> list[_Opcode]:
        return self._codes


def _opcodes(before: Sequence[str], after: Sequence[str]) -> list[_Opcode]:
    """What turns one list of lines into the other, in the form of `SequenceMatcher`, in a time that does not explode.

    That class takes minutes for some thousand lines that repeat. So lines that each has once are matched first, as in
    patience diff by Bram Cohen, and it compares only what is between them.
    """
    codes: list[_Opcode] = []
    old_start = new_start = 0
    for old_end, new_end in [*_anchors(before, after), (len(before), len(after))]:
        old, new = before[old_start:old_end], after[new_start:new_end]
        if len(old) * len(new) <= _MAX_COMPARED:
            found = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        else:
            found = [("replace", 0, len(old), 0, len(new))]
        codes += [(tag, a + old_start, b + old_start, c + new_start, d + new_start) for tag, a, b, c, d in found]
        codes.append(("equal", old_end, old_end + 1, new_end, new_end + 1))
        old_start, new_start = old_end + 1, new_end + 1
    del codes[-1]  # that of the end
    return _joined(codes)


def _anchors(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """The places of lines that each has once, as many of them as are in the same order in both."""
    once = {line for line, count in Counter(before).items() if count == 1}
    once &= {line for line, count in Counter(after).items() if count == 1}
    places = {line: place for place, line in enumerate(before) if line in once}
    pairs = [(places[line], place) for place, line in enumerate(after) if line in once]
    ends: list[int] = []  # the last place in BEFORE of the best chain of each length
    chains: list[tuple[int, int, int]] = []  # each pair with the number of the one before it in its chain
    last: list[int] = []  # of each length the number of the pair that ends the best chain
    for number, (old, new) in enumerate(pairs):
        length = bisect_left(ends, old)
        chains.append((old, new, last[length - 1] if length else -1))
        ends[length : length + 1], last[length : length + 1] = [old], [number]
    found = []
    number = last[-1] if last else -1
    while number >= 0:
        old, new, number = chains[number]
        found.append((old, new))
    return found[::-1]


def _joined(codes: Iterable[_Opcode]) -> list[_Opcode]:
    """The same with neighbours of one kind as one."""
    joined: list[_Opcode] = []
    for code in codes:
        if joined and joined[-1][0] == code[0]:
            joined[-1] = (code[0], joined[-1][1], code[2], joined[-1][3], code[4])
        else:
            joined.append(code)
    return joined
