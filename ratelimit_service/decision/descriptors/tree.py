"""Domain rules, compiled to find the limits and buckets for the entries of a descriptor.

The matching is that of envoyproxy/ratelimit. At each level the entry is matched exactly, then against the wildcards of
its key in the order of their declaration, then by its key alone; there is no backtracking. A node applies to a
descriptor only when the descriptor's entries match its whole path.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import repeat
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.descriptors.request import Entries
from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleCharge,
    RuleLimit,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.limit import Algorithm, Limit, Mode, Quota
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.policy import NO_EXPIRY, PARTITIONS, Validity
from ratelimit_service.decision.reason import Source
from ratelimit_service.decision.usage import BLOCKED, NO_SERIES, Series


class Wildcard:
    """A value with `*` in it, each of which matches any characters, or none.

    Each text between two stars is matched at its first occurrence. That finds a match if there is one, since it leaves
    most of the value to the texts that follow; so matching costs one search for each text, whatever clients send.
    """

    __slots__ = ("_infixes", "_length", "_prefix", "_suffix")

    def __init__(self, value: str) -> None:
        self._prefix, *self._infixes, self._suffix = value.split("*")
        self._length = len(value) - value.count("*")

    def matches(self, value: str) -> bool:
        """Whether VALUE matches."""
        if len(value) < self._length or not (value.startswith(self._prefix) and value.endswith(self._suffix)):
            return False
        at, end = len(self._prefix), len(value) - len(self._suffix)
        for infix in self._infixes:
            at = value.find(infix, at, end)
            if at < 0:
                return False
            at += len(infix)
        return True


_MAX_CACHED = 2_000  # descriptors whose limit sets a tree caches, in some 1.5 KiB each
_MAX_CHARACTERS = 512  # of a descriptor that is cached: clients choose how long they are


class AppliedLimit(NamedTuple):
    """A limit that applies to a descriptor, and its bucket; None when nothing is counted (unlimited, blocked)."""

    name: str
    algorithm: Algorithm | Unlimited | Blocked
    enforced: bool
    bucket: Bucket | None
    replaces: tuple[str, ...] = ()


class LimitSet:
    """The limits of a descriptor, by its rules or a plan. A descriptor without limits is allowed.

    `buckets` are those of the limits, in their order. A limit without a bucket is the only one, so there are as many
    buckets as limits, or none. `replaces` are the names of limits that do not apply to a request to which these do.
    `series` is what the descriptor counts for, `source` what its decision by the shared buckets is based on.
    `afterwards`: whether its hits are charged whatever the limits have.
    """

    __slots__ = ("afterwards", "buckets", "enforced", "limits", "on_store_failure", "replaces", "series", "source")

    def __init__(
        self,
        limits: tuple[AppliedLimit, ...],
        on_store_failure: RuleOnStoreFailure,
        series: Series = NO_SERIES,
        source: Source = Source.STORE,
        *,
        afterwards: bool = False,
    ) -> None:
        self.limits = limits
        self.afterwards = afterwards
        self.source = source
        self.on_store_failure = on_store_failure
        self.series = series
        self.buckets: tuple[Bucket, ...] = tuple(limit.bucket for limit in limits if limit.bucket is not None)
        self.enforced: bool = any(limit.enforced for limit in limits)
        self.replaces: frozenset[str] = frozenset(name for limit in limits for name in limit.replaces)

    def excluding(self, names: Collection[str]) -> "LimitSet":
        """The same without the limits of these names."""
        limits = tuple(limit for limit in self.limits if limit.name not in names)
        if len(limits) == len(self.limits):
            return self
        series = self.series.with_limits(*(limit.name for limit in limits))
        return LimitSet(limits, self.on_store_failure, series, self.source, afterwards=self.afterwards)

    def unenforced(self) -> "LimitSet":
        """The same with shadow limits only, and nothing denied because a store is down."""
        limits = tuple(map(_in_shadow, self.limits))
        return LimitSet(limits, RuleOnStoreFailure.ALLOW, self.series, Source.UNENFORCED, afterwards=self.afterwards)


class _Node:
    """A compiled RuleNode.

    `shared_value` is what stands for all its values in names of buckets, "" if they differ. `families` are those of the
    buckets of its limits: 0 if its rules list all values on its path, and callers choose none. `series` is what its
    descriptors count for: the domain, and `path`, the configured keys and values from the root on.
    """

    __slots__ = (
        "any_value",
        "charge",
        "exact",
        "families",
        "is_open",
        "limits",
        "on_store_failure",
        "path",
        "series",
        "shared_value",
        "wildcards",
    )

    def __init__(  # noqa: PLR0913, PLR0917  a node has that much
        self,
        domain: str,
        path: str,
        limits: tuple[RuleLimit, ...],
        on_store_failure: RuleOnStoreFailure,
        charge: RuleCharge,
        shared: str,
        *,
        is_open: bool,
    ) -> None:
        self.is_open = is_open
        self.charge = charge
        self.families = [_family(domain, path, limit.name) if is_open else 0 for limit in limits]
        self.path = path
        self.limits = limits
        self.on_store_failure = on_store_failure
        self.shared_value = shared
        self.series = _series(domain, path, limits) if path else NO_SERIES
        self.exact: dict[tuple[str, str], _Node] = {}
        self.wildcards: dict[str, list[tuple[Wildcard, _Node]]] = {}
        self.any_value: dict[str, _Node] = {}

    def child(self, entry: tuple[str, str]) -> "_Node | None":
        """The child that ENTRY matches."""
        node = self.exact.get(entry)
        if node is not None:
            return node
        key, value = entry
        for wildcard, candidate in self.wildcards.get(key, ()):
            if wildcard.matches(value):
                return candidate
        return self.any_value.get(key)


_Orders: TypeAlias = Mapping[frozenset[str], Sequence[tuple[str, ...]]]
"""In which orders keys are on paths, by which keys these are."""


class RuleTree:
    """The rules of one domain. Immutable, and in force as long as the `validity` is current.

    With `off_until_us`, until when no limit refuses (0: limits refuse), all its limits are shadow limits until then.
    """

    def __init__(self, rules: DomainRules, off_until_us: int = 0) -> None:
        root = _Node(rules.domain, "", (), rules.on_store_failure, rules.charge, "", is_open=False)
        _add_children(rules.domain, root, rules.descriptors)
        self._fill(rules.domain, root, _orders(rules.descriptors), rules.hold_us, off_until_us)

    def _fill(self, domain: str, root: _Node, orders: _Orders, hold_us: int | None, off_until_us: int) -> None:
        self.domain = domain
        self.hold_us = hold_us
        """For how long calls with an API key are reserved, None if they are not."""
        self.validity = Validity(off_until_us or NO_EXPIRY)
        self.afterwards = root.charge is RuleCharge.ALWAYS
        """Whether the hits of descriptors with an API key are charged whatever the limits of its plan have."""
        self._root = root
        self._orders = orders
        self._is_off = bool(off_until_us)
        self._matches: LruCache[Entries, LimitSet] = LruCache(_MAX_CACHED)
        self._overrides: LruCache[tuple[Entries, Quota], LimitSet] = LruCache(_MAX_CACHED)

    def renewed(self, off_until_us: int) -> "RuleTree":
        """The same rules, with or without limits that refuse. Costs nothing: what was compiled is shared."""
        tree = RuleTree.__new__(RuleTree)
        tree._fill(self.domain, self._root, self._orders, self.hold_us, off_until_us)  # noqa: SLF001  of its own class
        return tree

    def match(self, entries: Entries) -> LimitSet:
        """The limits of a descriptor."""
        found = self._matches.get(entries)
        if found is None:
            node, path = self._find(entries)
            limits = map(_apply, repeat(self.domain), repeat(path), node.limits, node.families) if path else ()
            afterwards = node.charge is RuleCharge.ALWAYS
            found = self._in_force(LimitSet(tuple(limits), node.on_store_failure, node.series, afterwards=afterwards))
            if _is_cacheable(entries):
                self._matches.put(entries, found)
        return found

    def match_bucket(self, entries: Mapping[str, str]) -> LimitSet:
        """The limits of a bucket, whose ENTRIES have no order: those of the rule that has them on its path.

        Where several have, since values may match more than one, it is the one that was declared first.
        """
        for keys in self._orders.get(frozenset(entries), ()):
            in_order = tuple([(key, entries[key]) for key in keys])
            found = self.match(in_order)
            if found.limits:
                return found
        return self.match(())

    def override(self, entries: Entries, algorithm: Quota | Blocked) -> LimitSet:
        """The limits of a descriptor that brings its own: that one, enforced, in place of the rules'.

        Its bucket is that of the descriptor's limit without a name, so what was consumed stays consumed when the
        request's limit changes. It counts for the rule that it replaces; without one, for the keys of its entries.
        """
        if isinstance(algorithm, Blocked):
            blocked = AppliedLimit("", algorithm, enforced=True, bucket=None)
            series = self._override_series(entries, BLOCKED)
            return self._in_force(LimitSet((blocked,), self.match(entries).on_store_failure, series))
        found = self._overrides.get((entries, algorithm))
        if found is None:
            family = _family(self.domain, *(key for key, _ in entries))
            limit = _apply(self.domain, entries, RuleLimit(algorithm), family)
            series = self._override_series(entries, limit.name)
            matched = self.match(entries)
            found = self._in_force(LimitSet((limit,), matched.on_store_failure, series, afterwards=matched.afterwards))
            if _is_cacheable(entries):
                self._overrides.put((entries, algorithm), found)
        return found

    def _in_force(self, limits: LimitSet) -> LimitSet:
        return limits.unenforced() if self._is_off else limits

    def _override_series(self, entries: Entries, limit: str) -> Series:
        node, _ = self._find(entries)
        path = node.path or "/".join(key for key, _ in entries)
        return Series.of_rule(self.domain, path, [limit])

    def _find(self, entries: Entries) -> tuple[_Node, Entries]:
        """The node whose path the entries match, and that path; the domain's root and () when there is none."""
        node = self._root
        path = []
        for entry in entries:
            child = node.child(entry)
            if child is None:
                return self._root, ()
            node = child
            path.append((entry[0], node.shared_value) if node.shared_value else entry)
        return node, tuple(path)


def _series(domain: str, path: str, limits: tuple[RuleLimit, ...]) -> Series:
    if len(limits) == 1 and isinstance(limits[0].algorithm, Unlimited | Blocked):
        return Series.of_rule(domain, path, [BLOCKED] if isinstance(limits[0].algorithm, Blocked) else [])
    return Series.of_rule(domain, path, [limit.name for limit in limits])


def _add_children(domain: str, parent: _Node, children: Iterable[RuleNode]) -> None:
    for rule in children:
        name = f"{rule.key}={rule.value}" if rule.value else rule.key
        node = _Node(
            domain,
            f"{parent.path}/{name}" if parent.path else name,
            rule.limits,
            rule.on_store_failure or parent.on_store_failure,
            rule.charge or parent.charge,
            rule.value if rule.share_threshold else "",
            is_open=parent.is_open or not rule.value or (rule.is_wildcard and not rule.share_threshold),
        )
        if rule.is_wildcard:
            parent.wildcards.setdefault(rule.key, []).append((Wildcard(rule.value), node))
        elif rule.value:
            parent.exact[rule.key, rule.value] = node
        else:
            parent.any_value[rule.key] = node
        _add_children(domain, node, rule.descriptors)


def _orders(nodes: Iterable[RuleNode]) -> _Orders:
    """Those of the paths of all rules with limits, but for paths with a key twice, which match no bucket."""
    found: dict[frozenset[str], list[tuple[str, ...]]] = {}

    def add(above: tuple[str, ...], nodes: Iterable[RuleNode]) -> None:
        for node in nodes:
            keys = (*above, node.key)
            if node.limits and len(names := frozenset(keys)) == len(keys) and keys not in found.setdefault(names, []):
                found[names].append(keys)
            add(keys, node.descriptors)

    add((), nodes)
    return found


def _family(*names: str) -> int:
    return (
        int.from_bytes(blake2b(_join("family", *names).encode("utf-8", "surrogatepass"), digest_size=4).digest()) or 1
    )


def _apply(domain: str, path: Entries, limit: RuleLimit, family: int) -> AppliedLimit:
    """A limit with its bucket.

    The bucket is named for the domain, the path with the request's values, and the limit's name alone, so that it
    outlives versions of the rules. The name is a digest: no caller's string gets into the bucket store. The partition
    is derived from the whole path, so that all limits of one descriptor are together and descriptors spread evenly.
    """
    algorithm = limit.algorithm
    bucket = None
    if not isinstance(algorithm, Unlimited | Blocked):
        node_name = _join("rule", domain, *(text for entry in path for text in entry))
        name = blake2b(_join(node_name, limit.name).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        digest = blake2b(node_name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        partition = int.from_bytes(digest) % PARTITIONS
        applied = Limit("descriptor", algorithm, mode=limit.mode, counts=limit.counts, overdraft=limit.overdraft)
        bucket = Bucket(name, partition, applied, family)
    return AppliedLimit(limit.name, algorithm, limit.mode is Mode.ENFORCE, bucket, limit.replaces)


def _in_shadow(limit: AppliedLimit) -> AppliedLimit:
    bucket = limit.bucket
    if bucket is not None:
        bucket = Bucket(bucket.name, bucket.partition, replace(bucket.limit, mode=Mode.SHADOW), bucket.family)
    return limit._replace(enforced=False, bucket=bucket)


def _join(*texts: str) -> str:
    """Join texts injectively: callers choose them, so a mere separator would be ambiguous."""
    return "".join(f"{len(text)}:{text}" for text in texts)


def _is_cacheable(entries: Entries) -> bool:
    return sum(len(key) + len(value) for key, value in entries) <= _MAX_CHARACTERS


UNREADABLE: Final = LimitSet((AppliedLimit("", Blocked(), enforced=True, bucket=None),), RuleOnStoreFailure.DENY)
"""The limits of a descriptor whose rules cannot be read: it is denied as DEGRADED_DENIED."""


class _UnreadableRules(RuleTree):
    """In place of the rules of a domain that cannot be read, and of which none were valid before."""

    def __init__(self) -> None:
        super().__init__(DomainRules("unreadable"))
        self.validity.invalidate()  # nothing would invalidate it once the rules can be read

    def match(self, entries: Entries) -> LimitSet:  # noqa: ARG002  its interface
        """UNREADABLE, whatever the descriptor."""
        return UNREADABLE

    def match_bucket(self, entries: Mapping[str, str]) -> LimitSet:  # noqa: ARG002  its interface
        """UNREADABLE, whatever the bucket."""
        return UNREADABLE

    def override(self, entries: Entries, algorithm: Quota | Blocked) -> LimitSet:  # noqa: ARG002  its interface
        """UNREADABLE, even if it brings its own limit: by the rules it may not count."""
        return UNREADABLE


UNREADABLE_RULES: Final = _UnreadableRules()
"""Deny every descriptor. Never current, so that nothing that follows from them is cached."""
