"""Descriptor rules: per domain, a tree of (key, value) pairs with limits at any node.

All of it is always valid: constructing something invalid raises InvalidArgument, with the path of the invalid field
relative to the constructed object (`InvalidArgument.under` puts it under its parent).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from ratelimit_service.decision.limit import Counting, Mode, Quota, TokenBucket, check_hold, check_overdraft
from ratelimit_service.decision.text import check_text, quoted
from ratelimit_service.errors import InvalidArgument

MAX_NODES = 1_000
"""Nodes of one domain."""

MAX_DEPTH = 16
"""Levels of nodes: as many as a descriptor may have entries."""

MAX_NODE_LIMITS = 16
"""Limits of one node."""

MAX_REPLACED = 16
"""Names that one limit replaces."""

MAX_DOMAIN_LIMITS = 4_000
"""Limits of one domain, and names that these replace."""

MAX_STARS = 256
"""`*` in the values of one key on one level: each costs a search in every value that is matched there."""

MAX_TEXT_BYTES = 256
"""Length of a domain, a key or a value."""

# A limit's name goes unescaped into a quoted header field of the proxy.
_LIMIT_NAME = re.compile(r"""[ !#-&(-\[\]-~]{0,64}""")


@dataclass(frozen=True, slots=True)
class Unlimited:
    """Everything fits, and nothing is counted. Distinguishes a descriptor with a rule from one without."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing ever fits: a limit of 0. Peeks and refunds are still allowed."""


class RuleOnStoreFailure(Enum):
    """What callers get while the bucket store is unavailable."""

    FAIL = "fail"
    """The call fails with UNAVAILABLE, and the caller's own failure mode decides."""
    LOCAL = "local"
    ALLOW = "allow"
    DENY = "deny"


class RuleCharge(Enum):
    """When the hits of a descriptor are charged."""

    IF_ALLOWED = "if_allowed"
    """To all limits of the request if they fit, otherwise to none."""
    ALWAYS = "always"
    """Whatever the limits have: the cost was incurred already."""


@dataclass(frozen=True, slots=True)
class RuleLimit:
    """One limit of a node.

    `name` may be empty; otherwise at most 64 printable ASCII characters without quotes and backslashes. When the limit
    applies to a request, the limits in `replaces` (names, at most 16) do not, whichever descriptor they belong to.
    `counts` is COST and `overdraft` None for one without a bucket, unlimited or blocked.
    """

    algorithm: TokenBucket | Quota | Unlimited | Blocked
    name: str = ""
    mode: Mode = Mode.ENFORCE
    replaces: tuple[str, ...] = ()
    counts: Counting = Counting.COST
    overdraft: int | None = None

    def __post_init__(self) -> None:
        check_limit_name("name", self.name)
        if not isinstance(self.algorithm, Unlimited | Blocked):
            check_overdraft(self.algorithm, self.overdraft)
        elif self.overdraft is not None:
            raise InvalidArgument.of(
                "overdraft", f"is {self.overdraft}, but an unlimited or blocked limit counts nothing; leave it out"
            )
        if self.counts is not Counting.COST and isinstance(self.algorithm, Unlimited | Blocked):
            raise InvalidArgument.of(
                "counts",
                f"is {self.counts.name}, but an unlimited or blocked limit counts nothing; leave it out",
            )
        if len(self.replaces) > MAX_REPLACED:
            raise InvalidArgument.of(
                "replaces", f"has {len(self.replaces)} entries; at most {MAX_REPLACED} are allowed"
            )
        for position, replaced in enumerate(self.replaces):
            field = f"replaces[{position}]"
            if not replaced:
                raise InvalidArgument.of(field, "is empty; name the limit to replace")
            check_limit_name(field, replaced)
            if replaced == self.name:
                raise InvalidArgument.of(field, f"is {replaced!r}, the limit's own name; a limit cannot replace itself")


@dataclass(frozen=True, slots=True)
class RuleNode:
    """One node: a key, and a value that is exact, a wildcard, or empty for any.

    In a wildcard each `*`, at any position, matches any characters or none. Each value that matches has a bucket of its
    own, unless `share_threshold` makes all values of a wildcard share one. A node without limits and children allows
    everything. `on_store_failure` and `charge` are None to inherit them from the node above. Keys and values have at
    most 256 bytes without control characters, keys at least one.
    """

    key: str
    value: str = ""
    limits: tuple[RuleLimit, ...] = ()
    descriptors: tuple["RuleNode", ...] = ()
    share_threshold: bool = False
    on_store_failure: RuleOnStoreFailure | None = None
    charge: RuleCharge | None = None

    def __post_init__(self) -> None:
        if not self.key:
            raise InvalidArgument.of("key", "is empty; each descriptor needs a key")
        check_text("key", self.key, MAX_TEXT_BYTES)
        check_text("value", self.value, MAX_TEXT_BYTES)
        if self.share_threshold and not self.is_wildcard:
            raise InvalidArgument.of(
                "share_threshold", f"needs a value with a *; {self.value!r} has only one bucket or one per value"
            )
        _check_limits(self.limits)
        check_siblings(self.descriptors)

    @property
    def is_wildcard(self) -> bool:
        """Whether the value has a `*`."""
        return "*" in self.value

    def nodes(self) -> Iterator["RuleNode"]:
        """The node and all below it."""
        yield self
        for child in self.descriptors:
            yield from child.nodes()

    @property
    def depth(self) -> int:
        """The number of levels of nodes, this one included."""
        return 1 + max((child.depth for child in self.descriptors), default=0)


@dataclass(frozen=True, slots=True)
class DomainRules:
    """All rules of one domain. `on_store_failure` and `charge` are the defaults for its nodes.

    `charge` is also that of descriptors with an API key, which a plan decides. `hold_us`: for how long calls with a key
    are reserved, MIN_HOLD_US to MAX_HOLD_US; None if they are not.
    """

    domain: str
    descriptors: tuple[RuleNode, ...] = ()
    on_store_failure: RuleOnStoreFailure = RuleOnStoreFailure.FAIL
    charge: RuleCharge = RuleCharge.IF_ALLOWED
    hold_us: int | None = None

    def __post_init__(self) -> None:
        check_domain("domain", self.domain)
        if self.hold_us is not None:
            check_hold("hold", self.hold_us)
            if self.charge is RuleCharge.ALWAYS:
                raise InvalidArgument.of(
                    "hold",
                    "is set for a domain that charges when calls have ended (charge ALWAYS); leave one of them out",
                )
        check_siblings(self.descriptors)
        count = sum(1 for _ in self.nodes())
        if count > MAX_NODES:
            raise InvalidArgument.of(
                "descriptors", f"has {count} descriptors on all levels; at most {MAX_NODES} are allowed in a domain"
            )
        for position, node in enumerate(self.descriptors):
            if node.depth > MAX_DEPTH:
                raise InvalidArgument.of(
                    f"descriptors[{position}]", f"is {node.depth} levels deep; at most {MAX_DEPTH} are allowed"
                )

    def nodes(self) -> Iterator[RuleNode]:
        """All nodes of all levels."""
        for node in self.descriptors:
            yield from node.nodes()


def check_new(rules: DomainRules) -> None:
    """Raise InvalidArgument if RULES must not be put in force. Those that are stored stay in force all the same."""
    _check_size(rules)
    _check_paths(rules)


def _check_paths(rules: DomainRules) -> None:
    """Raise InvalidArgument if two rules have the same entries in another order.

    A descriptor would match one of them, but a bucket of Envoy's quota protocol, whose entries have no order, both.
    """
    seen: dict[frozenset[tuple[str, str]], str] = {}
    for field, path in _limited_paths("", (), rules.descriptors):
        entries = frozenset(path)
        first = seen.setdefault(entries, field)
        if first != field and len(dict(path)) == len(path):  # a bucket has each key once
            raise InvalidArgument.of(
                field, f"has the same entries on its path as {first}, in another order; put the limits of both into one"
            )


def _limited_paths(
    prefix: str, above: tuple[tuple[str, str], ...], nodes: Iterable[RuleNode]
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """The field of each node with limits, and the keys and values of its path."""
    for position, node in enumerate(nodes):
        field, path = f"{prefix}descriptors[{position}]", (*above, (node.key, node.value))
        if node.limits:
            yield field, path
        yield from _limited_paths(f"{field}.", path, node.descriptors)


def _check_size(rules: DomainRules) -> None:
    """Raise InvalidArgument if RULES are so many that reading or matching them takes others' time."""
    limits = [limit for node in rules.nodes() for limit in node.limits]
    for what, count in (("limits", len(limits)), ("replaces", sum(len(limit.replaces) for limit in limits))):
        if count > MAX_DOMAIN_LIMITS:
            raise InvalidArgument.of(
                "descriptors",
                f"has {count} {what} on all levels; at most {MAX_DOMAIN_LIMITS:,} are allowed in a domain",
            )
    for level in (rules.descriptors, *(node.descriptors for node in rules.nodes())):
        stars = Counter[str]()
        for node in level:
            stars[node.key] += node.value.count("*")
        for key, count in stars.items():
            if count > MAX_STARS:
                raise InvalidArgument.of(
                    "descriptors",
                    f"has {count} * in the values of key {quoted(key)} on one level; at most {MAX_STARS} are allowed, "
                    "because each is searched for in every value",
                )


def check_domain(field: str, domain: str) -> None:
    """Raise InvalidArgument unless DOMAIN has 1 to 256 bytes and no control characters."""
    if not domain:
        raise InvalidArgument.of(field, "is empty; name the domain")
    check_text(field, domain, MAX_TEXT_BYTES)


def check_limit_name(field: str, name: str) -> None:
    """Raise InvalidArgument unless NAME is valid for a rule's limit. It may be empty."""
    if not _LIMIT_NAME.fullmatch(name):
        raise InvalidArgument.of(
            field,
            f"is {quoted(name)}; use at most 64 printable ASCII characters without quotes and backslashes, because it "
            "is put into a header unescaped",
        )


def check_siblings(nodes: tuple[RuleNode, ...]) -> None:
    """Raise InvalidArgument (field `descriptors[i]`) when two sibling nodes have the same key and value."""
    seen: dict[tuple[str, str], int] = {}
    for position, node in enumerate(nodes):
        first = seen.setdefault((node.key, node.value), position)
        if first != position:
            value = f" and value {node.value!r}" if node.value else " and no value"
            raise InvalidArgument.of(
                f"descriptors[{position}]", f"has key {node.key!r}{value} like descriptors[{first}]; merge them"
            )


def _check_limits(limits: tuple[RuleLimit, ...]) -> None:
    if len(limits) > MAX_NODE_LIMITS:
        raise InvalidArgument.of("limits", f"has {len(limits)} entries; at most {MAX_NODE_LIMITS} are allowed")
    seen: set[str] = set()
    for position, limit in enumerate(limits):
        if isinstance(limit.algorithm, Unlimited | Blocked) and len(limits) > 1:
            kind = type(limit.algorithm).__name__.lower()
            raise InvalidArgument.of(f"limits[{position}]", f"is {kind}, so it must be the only limit")
        if limit.name in seen:
            problem = f"is {limit.name!r} like an earlier one" if limit.name else "is empty like an earlier one"
            raise InvalidArgument.of(f"limits[{position}].name", f"{problem}; name each differently")
        seen.add(limit.name)
