"""Domain rules compiled: from the entries of a descriptor to the limits and buckets that are for it.

The walk is that of envoyproxy/ratelimit. At each level the entry is looked for as it is, then among the wildcards of
its key in the order of their declaration, then by its key alone; there is no going back. A node is for a descriptor
only when all entries lead to it.
"""

from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import NamedTuple

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.descriptors.request import Entries
from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleFailure,
    RuleLimit,
    RuleNode,
    Unlimited,
)
from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.policy import PARTITIONS, Validity


class Wildcard:
    """A value with `*` in it, each of which stands for any characters, or none.

    Each text between two stars is taken where it comes first. That finds a match if there is one, since it leaves most
    of the value to the texts that follow; so matching costs one search for each text, whatever clients send.
    """

    __slots__ = ("_begins", "_ends", "_length", "_within")

    def __init__(self, value: str) -> None:
        self._begins, *self._within, self._ends = value.split("*")
        self._length = len(value) - value.count("*")

    def matches(self, value: str) -> bool:
        """Whether VALUE is one of those that it stands for."""
        if len(value) < self._length or not (value.startswith(self._begins) and value.endswith(self._ends)):
            return False
        at, end = len(self._begins), len(value) - len(self._ends)
        for text in self._within:
            at = value.find(text, at, end)
            if at < 0:
                return False
            at += len(text)
        return True


_MAX_REMEMBERED = 10_000  # descriptors whose buckets a tree remembers
_MAX_CHARACTERS = 512  # longer ones are worked out each time: clients choose how long they are


class Applied(NamedTuple):
    """A limit that is for a descriptor, and its bucket; None when it is not counted (unlimited, blocked)."""

    name: str
    algorithm: TokenBucket | Quota | Unlimited | Blocked
    enforced: bool
    bucket: Bucket | None
    replaces: tuple[str, ...] = ()


class Match:
    """What the rules, or a plan, say of a descriptor, worked out once. Without limits it passes.

    `buckets` are those of the limits, in their order. A limit that is not counted stands alone, so there are as many of
    them as limits, or none. `replaces` are names of limits that do not apply to a request to which this does.
    """

    __slots__ = ("buckets", "enforced", "limits", "on_store_failure", "replaces")

    def __init__(self, limits: tuple[Applied, ...], on_store_failure: RuleFailure) -> None:
        self.limits = limits
        self.on_store_failure = on_store_failure
        self.buckets: tuple[Bucket, ...] = tuple(limit.bucket for limit in limits if limit.bucket is not None)
        self.enforced: bool = any(limit.enforced for limit in limits)
        self.replaces: frozenset[str] = frozenset(name for limit in limits for name in limit.replaces)

    def without(self, replaced: Collection[str]) -> "Match":
        """The same without the limits of these names."""
        kept = tuple(limit for limit in self.limits if limit.name not in replaced)
        return self if len(kept) == len(self.limits) else Match(kept, self.on_store_failure)


class _Node:
    __slots__ = ("any_value", "exact", "limits", "on_store_failure", "shares_as", "wildcards")

    def __init__(self, limits: tuple[RuleLimit, ...], on_store_failure: RuleFailure, shares_as: str) -> None:
        self.limits = limits
        self.on_store_failure = on_store_failure
        self.shares_as = shares_as
        self.exact: dict[tuple[str, str], _Node] = {}
        self.wildcards: dict[str, list[tuple[Wildcard, _Node]]] = {}
        self.any_value: dict[str, _Node] = {}

    def step(self, entry: tuple[str, str]) -> "_Node | None":
        """The node below that ENTRY leads to."""
        node = self.exact.get(entry)
        if node is not None:
            return node
        key, value = entry
        for wildcard, candidate in self.wildcards.get(key, ()):
            if wildcard.matches(value):
                return candidate
        return self.any_value.get(key)


class RuleTree:
    """The rules of one domain, unchanging and right as long as the `validity` holds."""

    def __init__(self, rules: DomainRules) -> None:
        self.domain = rules.domain
        self.validity = Validity()
        self._root = _Node((), rules.on_store_failure, "")
        _grow(self._root, rules.descriptors)
        self._matches: LruCache[Entries, Match] = LruCache(_MAX_REMEMBERED)
        self._overrides: LruCache[tuple[Entries, Quota], Match] = LruCache(_MAX_REMEMBERED)

    def match(self, entries: Entries) -> Match:
        """What the rules say of a descriptor."""
        found = self._matches.get(entries)
        if found is None:
            node, path = self._walk(entries)
            limits = tuple(_apply(self.domain, path, limit) for limit in node.limits) if path else ()
            found = Match(limits, node.on_store_failure)
            if _is_short(entries):
                self._matches.put(entries, found)
        return found

    def override(self, entries: Entries, algorithm: Quota | Blocked) -> Match:
        """What applies to a descriptor that brings its own limit: that one, enforced, in the place of the rules'.

        Its bucket is that of the descriptor's limit without a name, so what was consumed stays consumed when the
        request's limit changes.
        """
        if isinstance(algorithm, Blocked):
            return Match((Applied("", algorithm, enforced=True, bucket=None),), self.match(entries).on_store_failure)
        found = self._overrides.get((entries, algorithm))
        if found is None:
            limit = _apply(self.domain, entries, RuleLimit(algorithm))
            found = Match((limit,), self.match(entries).on_store_failure)
            if _is_short(entries):
                self._overrides.put((entries, algorithm), found)
        return found

    def _walk(self, entries: Entries) -> tuple[_Node, Entries]:
        """The node that all entries lead to, and the path there; the domain's root and () when there is none."""
        node = self._root
        path = []
        for entry in entries:
            below = node.step(entry)
            if below is None:
                return self._root, ()
            node = below
            path.append((entry[0], node.shares_as) if node.shares_as else entry)
        return node, tuple(path)


def _grow(parent: _Node, children: Iterable[RuleNode]) -> None:
    for rule in children:
        node = _Node(
            rule.limits, rule.on_store_failure or parent.on_store_failure, rule.value if rule.share_threshold else ""
        )
        if rule.is_wildcard:
            parent.wildcards.setdefault(rule.key, []).append((Wildcard(rule.value), node))
        elif rule.value:
            parent.exact[rule.key, rule.value] = node
        else:
            parent.any_value[rule.key] = node
        _grow(node, rule.descriptors)


def _apply(domain: str, path: Entries, limit: RuleLimit) -> Applied:
    """A limit with its bucket.

    The bucket is named for the domain, the path with the values that came, and the limit's name alone, so that it
    outlives versions of the rules. The name is a digest: no caller's string gets into the bucket store. The partition
    is that of the whole path, so that all limits of one descriptor are together and descriptors spread evenly.
    """
    algorithm = limit.algorithm
    bucket = None
    if not isinstance(algorithm, Unlimited | Blocked):
        place = _joined("rule", domain, *(text for entry in path for text in entry))
        name = blake2b(_joined(place, limit.name).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        digest = blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        bucket = Bucket(name, int.from_bytes(digest) % PARTITIONS, Limit("descriptor", algorithm, mode=limit.mode))
    return Applied(limit.name, algorithm, limit.mode is Mode.ENFORCE, bucket, limit.replaces)


def _joined(*texts: str) -> str:
    """One text that no other texts make: callers choose them, so a mere separator would not do."""
    return "".join(f"{len(text)}:{text}" for text in texts)


def _is_short(entries: Entries) -> bool:
    return sum(len(key) + len(value) for key, value in entries) <= _MAX_CHARACTERS
