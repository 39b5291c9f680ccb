"""Which changes of limits have to be confirmed: those that cut one by more than half, and those that lift one."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.descriptors.tree import Wildcard
from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.window import length_of

_CUT: Final = 0.5
"""A limit that becomes less than this share of what it was has to be confirmed."""

_LIFT: Final = 10.0
"""And one that becomes more than this multiple."""

_ALLOWS: Final = "everything is allowed while the bucket store is away"
_ANY_WORD: Final = "* "


class _Counting(Protocol):
    """What limits of plans and of rules have in common."""

    @property
    def name(self) -> str: ...

    @property
    def algorithm(self) -> TokenBucket | Quota | Unlimited | Blocked: ...

    @property
    def mode(self) -> Mode: ...


def limits_effects(before: Sequence[Limit], after: Sequence[Limit]) -> list[str]:
    """Why limits that take the place of others, each that of the one of its name, have to be confirmed."""
    return [*_limits_effects(before, after), *_narrowed(before, after)]


def failure_effects(before: OnStoreFailure, after: OnStoreFailure) -> list[str]:
    """The same for what becomes of calls while the bucket store is away."""
    return [_ALLOWS] if after is OnStoreFailure.ALLOW and before is not OnStoreFailure.ALLOW else []


def rules_effects(before: DomainRules, after: DomainRules | None) -> list[str]:
    """The same for the rules of a domain. None: it has none any more."""
    if after is None:
        return list(_removed(before.descriptors, ""))
    names = {limit.name for node in before.nodes() for limit in node.limits if _enforces(limit)}
    return list(
        _level_effects(
            before.descriptors, after.descriptors, "", (before.on_store_failure, after.on_store_failure), names
        )
    )


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
    ratios = _ratios(before.algorithm, after.algorithm)
    if min(ratios) < _CUT:
        return f"is cut by {100 * (1 - min(ratios)):.3g} %"
    return f"is lifted to {max(ratios):,.3g} times as much" if max(ratios) > _LIFT else ""


def _ratios(before: TokenBucket | Quota | Unlimited | Blocked, after: object) -> list[float]:
    """The amounts and rates after a change as multiples of those before. Of another kind, the rate alone."""
    if isinstance(before, TokenBucket) and isinstance(after, TokenBucket):
        return [after.capacity / before.capacity, _rate(after) / _rate(before)]
    if isinstance(before, TokenBucket | Quota) and isinstance(after, TokenBucket | Quota):
        return [_rate(after) / _rate(before)]
    return [1.0]


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
    for node in after:
        if (node.key, node.value) not in old:
            yield from _new_node_effects(before, node, path)
    for node in after:
        yield from _replacing(old.get((node.key, node.value)), node, _path(path, node), names)


def _node_effects(
    before: RuleNode, after: RuleNode, path: str, failures: tuple[RuleOnStoreFailure, RuleOnStoreFailure]
) -> Iterator[str]:
    for effect in _limits_effects(before.limits, after.limits):
        yield f"{path}: {effect}"
    if not any(map(_enforces, before.limits)):
        return
    if before.share_threshold and not after.share_threshold:
        yield f"{path}: each value has the whole limit to itself"
    if failures[1] is RuleOnStoreFailure.ALLOW and failures[0] is not RuleOnStoreFailure.ALLOW:
        yield f"{path}: {_ALLOWS}"


def _new_node_effects(before: Sequence[RuleNode], node: RuleNode, path: str) -> Iterator[str]:
    """What a new node lifts or cuts of the limits that its value had from a wildcard, or from its key alone."""
    same_key = [other for other in before if other.key == node.key]
    wild = [other for other in same_key if other.is_wildcard and Wildcard(other.value).matches(node.value)]
    any_value = [other for other in same_key if not other.value]
    for other in ([] if node.is_wildcard or not node.value else wild) or any_value:
        for effect in _limits_effects(other.limits, node.limits):
            yield f"{_path(path, node)}, which had the limits of {_path(path, other)}: {effect}"
        return


def _replacing(before: RuleNode | None, after: RuleNode, path: str, names: set[str]) -> Iterator[str]:
    old = {limit.name: limit.replaces for limit in before.limits} if before else {}
    for limit in after.limits:
        added = names & (set(limit.replaces) - set(old.get(limit.name, ())))
        if added:
            yield f"{path}: limit {', '.join(sorted(added))} does not apply where {limit.name or 'its limit'} does"


def _removed(nodes: Sequence[RuleNode], path: str) -> Iterator[str]:
    for node in nodes:
        here = _path(path, node)
        if any(map(_enforces, node.limits)):
            yield f"{here} is removed"
        yield from _removed(node.descriptors, here)


def _path(path: str, node: RuleNode) -> str:
    name = f"{node.key}={node.value}" if node.value else node.key
    return f"{path}/{name}" if path else name
