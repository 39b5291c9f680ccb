"""The path of a descriptor through the rules of a domain, step by step, as the decision takes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ratelimit_service.decision.descriptors.request import MAX_ENTRIES, Entries
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.tree import Wildcard
from ratelimit_service.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Step:
    """An entry and the node that it met: `path` is that of the node in the tree, None when no node matches."""

    key: str
    value: str
    node: RuleNode | None
    path: tuple[int, ...] | None

    @property
    def how(self) -> str:
        """How it matched."""
        if self.node is None:
            return "no rule of this level matches"
        if not self.node.value:
            return "any value"
        return "the wildcard" if self.node.is_wildcard else "this very value"


@dataclass(frozen=True, slots=True)
class Route:
    """The steps of a descriptor, and the limits that apply to it: none unless every entry met a node."""

    steps: tuple[Step, ...]
    limits: tuple[RuleLimit, ...]
    on_store_failure: RuleOnStoreFailure

    @property
    def is_matched(self) -> bool:
        """Whether the whole descriptor met a rule."""
        return bool(self.steps) and self.steps[-1].node is not None

    @property
    def paths(self) -> frozenset[tuple[int, ...]]:
        """The nodes on the way."""
        return frozenset(step.path for step in self.steps if step.path is not None)


def parse_entries(text: str) -> Entries:
    """Read `key=value,key=value`. Raises InvalidArgument (field `entries`)."""
    entries = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise InvalidArgument.of("entries", f"has {part[:64]!r} without key or value; write key=value, by commas")
        entries.append((key.strip(), value.strip()))
    if len(entries) > MAX_ENTRIES:
        raise InvalidArgument.of("entries", f"has {len(entries)} entries; a descriptor has at most {MAX_ENTRIES}")
    return tuple(entries)


def route_of(rules: DomainRules, entries: Entries) -> Route:
    """Follow the entries through the rules, the way that `RuleTree` matches them."""
    steps: list[Step] = []
    nodes: Sequence[RuleNode] = rules.descriptors
    on_store_failure = rules.on_store_failure
    limits: tuple[RuleLimit, ...] = ()
    path: tuple[int, ...] = ()
    for key, value in entries:
        index = _match(nodes, key, value)
        if index is None:
            return Route((*steps, Step(key, value, None, None)), (), rules.on_store_failure)
        node, path = nodes[index], (*path, index)
        steps.append(Step(key, value, node, path))
        nodes, limits, on_store_failure = node.descriptors, node.limits, node.on_store_failure or on_store_failure
    return Route(tuple(steps), limits, on_store_failure)


def _match(nodes: Sequence[RuleNode], key: str, value: str) -> int | None:
    """The node for an entry: exactly, else by the first wildcard that matches, else by the key alone."""
    same = [(index, node) for index, node in enumerate(nodes) if node.key == key]
    exact = [index for index, node in same if node.value and not node.is_wildcard and node.value == value]
    wild = [index for index, node in same if node.is_wildcard and Wildcard(node.value).matches(value)]
    any_value = [index for index, node in same if not node.value]
    return next(iter((*exact, *wild, *any_value)), None)
