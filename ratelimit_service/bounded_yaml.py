"""YAML and JSON that somebody else wrote, read within bounds, each value with its line.

What makes YAML dangerous or surprising is refused where it stands: aliases and merges (a few lines of them stand for
more than there is memory), tags, repeated keys, a second document where one is expected, numbers to the base 60 or with
a leading zero.
What is left are the types of JSON, as YAML 1.2 has them: `no` and `on` are texts, and so is a date.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import yaml

MAX_BYTES: Final = 1_048_576
"""Size of a document: a thousand rules with all that they may have take about a quarter of it."""

MAX_DEPTH: Final = 64
"""Lists and mappings within each other: rules of 16 levels take 36."""

MAX_NODES: Final = 100_000
"""Values of a file of MAX_BYTES, each an element of a list, a key or a value. Larger files may have more."""

_MAX_SHOWN: Final = 80
_MAX_DIGITS: Final = 40
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_BASE_60: Final = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9_]+")
_NO_NUMBER: Final = re.compile(r"[-+]?\.(inf|Inf|INF|nan|NaN|NAN)")
_MERGE: Final = "<<"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED_PAIR: Final = re.compile(r"\\(?:(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
"""Any escape; the group is how JSON in ASCII writes a character beyond U+FFFF, such as an emoji. YAML has no pairs."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 20 times as fast, and may be missing

Kind: TypeAlias = Literal["scalar", "list", "mapping"]
Plain: TypeAlias = Any
"""A dict with texts as keys, a list, str, int, float, bool or None."""


class YamlError(ValueError):
    """A document that is refused: its line, counted from 1, and what is wrong there."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


@dataclass(slots=True)
class Node:
    """One value. `text` and `quoted` are those of a scalar; `items` has the values of a list, `pairs` of a mapping."""

    kind: Kind
    line: int
    text: str = ""
    quoted: bool = False
    items: list["Node"] = field(default_factory=list)
    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)

    @property
    def is_null(self) -> bool:
        """Whether it is null: nothing, `~` or `null`."""
        return self.kind == "scalar" and not self.quoted and self.text in _NULLS

    @property
    def value(self) -> str | float | bool | None:
        """What a scalar is: a text, a number, a boolean or None. Raises YamlError for a number that misleads."""
        text = self.text
        if self.quoted:
            return text
        if self.is_null:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if len(text) > _MAX_DIGITS and _INTEGER.fullmatch(text):
            raise YamlError(self.line, f"a number of {len(text)} digits; at most {_MAX_DIGITS} are allowed")
        for pattern, problem in _MISLEADING:
            if pattern.fullmatch(text):
                raise YamlError(self.line, f"{text[:_MAX_SHOWN]} {problem}")
        if _INTEGER.fullmatch(text):
            return int(text)
        if len(text) <= _MAX_DIGITS and _OTHER_BASE.fullmatch(text):
            return int(text, 0)
        return float(text) if len(text) <= _MAX_DIGITS and _FLOAT.fullmatch(text) else text


_MISLEADING: Final = (
    (_BASE_60, "would be a number to the base 60; write it in seconds, or in quotes if it is a text"),
    (_LEADING_ZERO, "begins with a zero and would be octal; leave that out, or write it in quotes if it is a text"),
    (_NO_NUMBER, "is not a number; write it in quotes if it is a text"),
)


def read_yaml(text: str, max_bytes: int = MAX_BYTES) -> Node | None:
    """The root of a document; None if it is empty. Raises YamlError for one that is refused, with the line."""
    roots = list(_read(text, max_bytes, several=False))
    return roots[0] if roots else None


def read_documents(text: str, max_bytes: int = MAX_BYTES) -> Iterator[Node]:
    """The roots of a file's documents, without those that are empty.

    There may be as many as the bounds of bytes and values allow. One is read at a time, so that a file takes no more
    memory than its text and its largest document. Raises as `read_yaml`, once all before the one refused are read.
    """
    return (root for root in _read(text, max_bytes, several=True) if not root.is_null)


def _read(text: str, max_bytes: int, *, several: bool) -> Iterator[Node]:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise YamlError(text.count("\n", 0, max_bytes) + 1, f"the file has more than the {max_bytes:,} bytes allowed")
    surrogate = None if size == len(text) else _SURROGATE.search(text)
    if surrogate:
        raise YamlError(text.count("\n", 0, surrogate.start()) + 1, "has half of a surrogate pair")
    max_nodes = MAX_NODES * max(1, max_bytes // MAX_BYTES)
    if text.lstrip()[:1] in {"{", "[", '"'}:
        text = _ESCAPED_PAIR.sub(lambda escape: json.loads(f'"{escape[0]}"') if escape[1] else escape[0], text)
    try:
        yield from _trees(yaml.parse(text, Loader=_Loader), max_nodes, several=several)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)[:_MAX_SHOWN]
        last = text.count("\n") + 1  # libyaml counts one more at the end of a text
        raise YamlError(min(mark.line + 1, last) if mark else 1, f"not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, "not YAML: has a character that is not allowed") from None


def plain(node: Node | None) -> Plain:
    """NODE and all below it, as the types of JSON. Raises YamlError for a number that misleads, with the line."""
    if node is None:
        return None
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.kind == "mapping":
        return {key.text: plain(value) for key, value in node.pairs}
    return node.value


def _trees(events: Iterator[yaml.Event], max_nodes: int, *, several: bool) -> Iterator[Node]:
    """Build the trees, each when it is asked for, without recursion, and without what is refused."""
    tree = _Tree(max_nodes)
    documents = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            tree.close()
        elif isinstance(event, yaml.NodeEvent):
            tree.add(_node(event, line))
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1 and not several:
                raise YamlError(line, "a second document; a file holds one")
        elif isinstance(event, yaml.DocumentEndEvent):
            yield tree.take()


class _Tree:
    """A tree that grows by one node at a time, from the root down, left to right, and then the next one.

    All of them together have at most MAX_NODES.
    """

    def __init__(self, max_nodes: int) -> None:
        self._root: Node | None = None
        self._max_nodes = max_nodes
        self._count = 0
        self._open: list[Node] = []
        self._keys: list[Node | None] = []  # of each open mapping the key that waits for its value

    def add(self, node: Node) -> None:
        self._count += 1
        if self._count > self._max_nodes:
            raise YamlError(node.line, f"more than {self._max_nodes:,} values")
        if not self._open:
            self._root = node
        elif self._open[-1].kind == "list":
            self._open[-1].items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = node
        else:
            self._open[-1].pairs.append((key, node))
            self._keys[-1] = None
        if node.kind != "scalar":
            if len(self._open) >= MAX_DEPTH:
                raise YamlError(node.line, f"more than {MAX_DEPTH} lists and mappings within each other")
            self._open.append(node)
            self._keys.append(None)

    def take(self) -> Node:
        """The tree that is complete. The next node is the root of another one."""
        root, self._root = self._root, None
        assert root is not None  # noqa: S101  YAML has a node, which may be empty, in each document
        return root

    def close(self) -> None:
        self._keys.pop()
        _check_keys(self._open.pop())


def _node(event: yaml.NodeEvent, line: int) -> Node:
    if isinstance(event, yaml.AliasEvent):
        raise YamlError(line, "aliases are not supported; repeat what they stand for")
    tag = getattr(event, "tag", None)
    if tag not in {None, "!"}:  # ! alone says that a text is one, as quotes do
        raise YamlError(line, "tags are not supported; leave it out")
    if isinstance(event, yaml.ScalarEvent):
        return Node("scalar", line, event.value, quoted=tag is not None or not event.implicit[0])
    return Node("list" if isinstance(event, yaml.SequenceStartEvent) else "mapping", line)


def _check_keys(node: Node) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.pairs:
        if key.kind != "scalar":
            raise YamlError(key.line, f"a {key.kind} as a key; use a text")
        if key.text == _MERGE and not key.quoted:
            raise YamlError(key.line, "merges (<<) are not supported; write the fields out")
        if key.text in seen:
            raise YamlError(key.line, f"{key.text[:_MAX_SHOWN]} is given twice, first in line {seen[key.text]}")
        seen[key.text] = key.line
