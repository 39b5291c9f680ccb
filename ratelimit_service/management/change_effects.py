"""Which changes of limits have to be confirmed: those that cut one by more than half, and those that lift one."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleCharge,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.descriptors.tree import Wildcard
from ratelimit_service.decision.limit import Algorithm, Concurrency, Counting, Limit, Mode, Quota, TokenBucket
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.window import length_of

_CUT: Final = 0.5
"""A limit that becomes less than this share of what it was has to be confirmed."""

_LIFT: Final = 10.0
"""And one that becomes more than this multiple."""

_MAX_EFFECTS: Final = 1_000
"""Of one change of rules. What is named of them is far less."""

_MAX_COMPARED: Final = 2_000
"""Pairs of nodes of one level of which one took values from the other: 50 ms or so."""

_ALLOWS: Final = "everything is allowed while the bucket store is away"
_CHARGES_LESS: Final = "what costs more than is left is not charged any more"
_HOLDS: Final = "each call of a key is reserved until it is settled; of those with another descriptor all are denied"
_HOLDS_NOT: Final = "calls of keys are not held any more: no limit on calls at once applies to them"
_HOLDS_SHORTER: Final = "calls of keys are held for less than half of the time: those that last longer are not settled"
_ANY_WORD: Final = "* "


class _Counting(Protocol):
    """What limits of plans and of rules have in common."""

    @property
    def name(self) -> str: ...

    @property
    def algorithm(self) -> Algorithm | Unlimited | Blocked: ...

    @property
    def mode(self) -> Mode: ...

    @property
    def counts(self) -> Counting: ...

    @property
    def overdraft(self) -> int | None: ...


def limits_effects(before: Sequence[Limit], after: Sequence[Limit]) -> list[str]:
    """Why limits that take the place of others, each that of the one of its name, have to be confirmed."""
    return [*_limits_effects(before, after), *_narrowed(before, after)]


def failure_effects(before: OnStoreFailure, after: OnStoreFailure) -> list[str]:
    """The same for what becomes of calls while the bucket store is away."""
    return [_ALLOWS] if after is OnStoreFailure.ALLOW and before is not OnStoreFailure.ALLOW else []


def rules_effects(before: DomainRules, after: DomainRules | None) -> list[str]:
    """The same for the rules of a domain. None: it has none any more."""
    if after is None:
        return [*_key_effects(before, DomainRules(before.domain)), *_removed(before.descriptors, "")]
    names = {limit.name for node in before.nodes() for limit in node.limits if _enforces(limit)}
    lifted = _key_effects(before, after)
    failures = (before.on_store_failure, after.on_store_failure)
    effects = _level_effects(before.descriptors, after.descriptors, "", failures, names)
    return [*lifted, *islice(effects, _MAX_EFFECTS)]


def _key_effects(before: DomainRules, after: DomainRules) -> Iterator[str]:
    """The same for its calls with an API key."""
    if before.charge is RuleCharge.ALWAYS and after.charge is not RuleCharge.ALWAYS:
        yield _CHARGES_LESS
    if before.hold_us is None:
        if after.hold_us is not None:
            yield _HOLDS
    elif after.hold_us is None:
        yield _HOLDS_NOT
    elif after.hold_us < _CUT * before.hold_us:
        yield _HOLDS_SHORTER


def _limits_effects(before: Sequence[_Counting], after: Sequence[_Counting]) -> Iterator[str]:
    new = {limit.name: limit for limit in after}
    for limit in before:
        if _enforces(limit):
            effect = _effect(limit, new.get(limit.name))
            if effect:
                yield f"limit {limit.name} {effect}" if limit.name else f"its limit {effect}"


def _enforces(limit: _Counting) -> bool:
    return limit.mode is Mode.ENFORCE and not isinstance(limit.algorithm, Unlimited)


def _effect(before: _Counting, after: _Counting | None) -> str:
    """What becomes of a limit that refuses, empty if it need not be confirmed."""
    if after is None or isinstance(after.algorithm, Unlimited):
        return "is removed"
    if after.mode is Mode.SHADOW:
        return "only reports any more"
    if isinstance(before.algorithm, Blocked) or isinstance(after.algorithm, Blocked):
        if type(before.algorithm) is type(after.algorithm):
            return ""
        return "blocks no more" if isinstance(before.algorithm, Blocked) else "blocks everything"
    return _amount_effect(before, after)


def _amount_effect(before: _Counting, after: _Counting) -> str:
    """The same for limits that are token buckets or quotas, and refuse."""
    if before.counts is not after.counts:  # how much that allows depends on what calls cost
        return f"counts {'calls, whatever they cost' if after.counts is Counting.CALLS else 'what calls cost'}"
    if isinstance(before.algorithm, Concurrency) is not isinstance(after.algorithm, Concurrency):
        return "counts something else: tokens, or calls at once"
    if before.overdraft is not None and after.overdraft is None:
        return "has no overdraft any more, so that it denies no peek"
    ratios = _ratios(before.algorithm, after.algorithm)
    if min(ratios) < _CUT:
        return f"is cut by {100 * (1 - min(ratios)):.3g} %"
    return f"is lifted to {max(ratios):,.3g} times as much" if max(ratios) > _LIFT else ""


def _ratios(before: Algorithm | Unlimited | Blocked, after: object) -> list[float]:
    """What passes at once and in the long run after a change, as multiples of that before."""
    if isinstance(before, TokenBucket | Quota) and isinstance(after, TokenBucket | Quota):
        return [_at_once(after) / _at_once(before), _rate(after) / _rate(before)]
    if isinstance(before, Concurrency) and isinstance(after, Concurrency):
        unsettled = (after.max / after.default_hold_us) / (before.max / before.default_hold_us)
        return [after.max / before.max, unsettled]
    return [1.0]


def _at_once(algorithm: TokenBucket | Quota) -> int:
    return algorithm.capacity if isinstance(algorithm, TokenBucket) else algorithm.amount


def _rate(algorithm: TokenBucket | Quota) -> float:
    """Tokens per microsecond in the long run."""
    if isinstance(algorithm, TokenBucket):
        return algorithm.refill_tokens / algorithm.refill_period_us
    return algorithm.amount / length_of(algorithm, 0).us  # a month of 31 days


def _narrowed(before: Sequence[Limit], after: Sequence[Limit]) -> Iterator[str]:
    new = {limit.name: limit for limit in after}
    for limit in before:
        changed = new.get(limit.name)
        if changed and _enforces(limit) and not _covers(changed.resource, limit.resource):
            yield f"limit {limit.name} is for {changed.resource} and no more for {limit.resource}"


def _covers(pattern: str, other: str) -> bool:
    """Whether PATTERN matches all that OTHER does."""
    if pattern in {other, "*"}:
        return True
    any_word = pattern.startswith(_ANY_WORD)
    if any_word is not other.startswith(_ANY_WORD) or not pattern.endswith("*"):
        return False
    return other.startswith(pattern[:-1])


def _level_effects(
    before: Sequence[RuleNode],
    after: Sequence[RuleNode],
    path: str,
    failures: tuple[RuleOnStoreFailure, RuleOnStoreFailure],
    names: set[str],
) -> Iterator[str]:
    """What becomes of one level of rules and those below it. FAILURES are what the level inherits, before and after.

    NAMES are those of all limits that refused before.
    """
    new = {(node.key, node.value): node for node in after}
    old = {(node.key, node.value): node for node in before}
    for node in before:
        here = _path(path, node)
        successor = new.get((node.key, node.value))
        if successor is None:
            yield from _removed([node], path)
            continue
        inherited = (node.on_store_failure or failures[0], successor.on_store_failure or failures[1])
        yield from _node_effects(node, successor, here, inherited)
        yield from _level_effects(node.descriptors, successor.descriptors, here, inherited, names)
    for number, (node, other) in enumerate(_took_over(before, after)):
        if number >= _MAX_COMPARED:
            yield f"{path or 'the domain'}: more wildcards took values from others than are compared"
            break
        had = f"{_path(path, node)}, which had the limits of {_path(path, other)}"
        inherited = (other.on_store_failure or failures[0], node.on_store_failure or failures[1])
        yield from _node_effects(other, node, had, inherited)
        for effect in _level_effects(other.descriptors, node.descriptors, "", inherited, set()):
            yield f"{had}: {effect}"
    for node in after:
        yield from _replacing(old.get((node.key, node.value)), node, path, names)


def _node_effects(
    before: RuleNode, after: RuleNode, path: str, failures: tuple[RuleOnStoreFailure, RuleOnStoreFailure]
) -> Iterator[str]:
    for effect in _limits_effects(before.limits, after.limits):
        yield f"{path}: {effect}"
    if not any(map(_enforces, before.limits)):
        return
    if before.share_threshold and not after.share_threshold:
        yield f"{path}: each value has the whole limit to itself"
    if before.charge is RuleCharge.ALWAYS and after.charge is not RuleCharge.ALWAYS:
        yield f"{path}: {_CHARGES_LESS}"
    if failures[1] is RuleOnStoreFailure.ALLOW and failures[0] is not RuleOnStoreFailure.ALLOW:
        yield f"{path}: {_ALLOWS}"


def _took_over(before: Sequence[RuleNode], after: Sequence[RuleNode]) -> Iterator[tuple[RuleNode, RuleNode]]:
    """Each node that matches values which had the rules of another one before, with that one; both of one level.

    These are new values and wildcards, and wildcards that stand before another one now: the first that matches counts.
    Whether two wildcards have a value in common is not computed; they have none if their ends differ.
    """
    before_by_key = _by_key(before)
    for key, now in _by_key(after).items():
        old = before_by_key.get(key)
        if old is None:
            continue
        for value, node in now.exact.items():
            if value in old.exact:
                continue
            other = next((wild for wild, wildcard in old.wild.values() if wildcard.matches(value)), old.any_value)
            if other is not None:
                yield node, other
        yield from _wildcards_took_over(old, now)


def _wildcards_took_over(old: "_Values", now: "_Values") -> Iterator[tuple[RuleNode, RuleNode]]:
    """The same for the wildcards of one key."""
    later = set(old.wild) & set(now.wild)  # those after the wildcard in NOW; what is there no more was removed
    for value, (node, _) in now.wild.items():
        later.discard(value)
        for other, _ in old.wild.values():
            if other.value == value:
                break  # what follows came after it before, too
            if other.value in later and _may_share(value, other.value):
                yield node, other
        if value not in old.wild and old.any_value:
            yield node, old.any_value


class _Values:
    """The nodes of one level and key: by exact value, by wildcard in their order, and the one for any value."""

    def __init__(self) -> None:
        self.exact: dict[str, RuleNode] = {}
        self.wild: dict[str, tuple[RuleNode, Wildcard]] = {}
        self.any_value: RuleNode | None = None


def _by_key(nodes: Sequence[RuleNode]) -> dict[str, _Values]:
    found: defaultdict[str, _Values] = defaultdict(_Values)
    for node in nodes:
        values = found[node.key]
        if node.is_wildcard:
            values.wild[node.value] = node, Wildcard(node.value)
        elif node.value:
            values.exact[node.value] = node
        else:
            values.any_value = node
    return found


def _may_share(one: str, other: str) -> bool:
    """Whether two wildcards begin and end so that one value may match both."""
    (start, end), (other_start, other_end) = _ends(one), _ends(other)
    starts_alike = start.startswith(other_start) or other_start.startswith(start)
    return starts_alike and (end.endswith(other_end) or other_end.endswith(end))


def _ends(wildcard: str) -> tuple[str, str]:
    return wildcard.partition("*")[0], wildcard.rpartition("*")[2]


def _replacing(before: RuleNode | None, after: RuleNode, path: str, names: set[str]) -> Iterator[str]:
    """Which of these limits a node replaces that it did not before, with those below it if it is new."""
    here = _path(path, after)
    old = {limit.name: limit.replaces for limit in before.limits} if before else {}
    for limit in after.limits:
        added = names & (set(limit.replaces) - set(old.get(limit.name, ())))
        if added:
            yield f"{here}: limit {', '.join(sorted(added))} does not apply where {limit.name or 'its limit'} does"
    if before is None:
        for node in after.descriptors:
            yield from _replacing(None, node, here, names)


def _removed(nodes: Sequence[RuleNode], path: str) -> Iterator[str]:
    for node in nodes:
        here = _path(path, node)
        if any(map(_enforces, node.limits)):
            yield f"{here} is removed"
        yield from _removed(node.descriptors, here)


def _path(path: str, node: RuleNode) -> str:
    name = f"{node.key}={node.value}" if node.value else node.key
    return f"{path}/{name}" if path else name
