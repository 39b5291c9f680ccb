"""Imports files of envoyproxy/ratelimit as the rules of domains."""

from collections.abc import Iterable
from dataclasses import replace

from ratelimit_service.decision.descriptors.rules import DomainRules, RuleNode, Unlimited, check_new
from ratelimit_service.decision.limit import MICRO, Mode, Quota, TokenBucket, Window
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.rules_import.envoy_ratelimit import Conversion, DomainFile, EnvoyRatelimitReader, PlacedNode
from ratelimit_service.rules_import.findings import Findings, Place

_DAY_US = 86_400 * MICRO
_WINDOWS_US = {
    Window.SECOND: MICRO,
    Window.MINUTE: 60 * MICRO,
    Window.HOUR: 3_600 * MICRO,
    Window.DAY: _DAY_US,
    Window.WEEK: 7 * _DAY_US,
    Window.MONTH: 30 * _DAY_US,
}

_CALENDAR = {
    Window.WEEK: "weeks begin on Monday here, on Thursday in envoyproxy/ratelimit",
    Window.MONTH: "months are calendar months here, 30 days counted from 1970 in envoyproxy/ratelimit",
    Window.YEAR: "years are calendar years here, 365 days counted from 1970 in envoyproxy/ratelimit",
}
"""Where the windows differ: in envoyproxy/ratelimit, time since 1970 is divided by the length of the unit."""


def to_quota(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Convert to a quota with the same windows: up to a day they begin and end at the same times."""
    if window in _CALENDAR:
        findings.note(place, _CALENDAR[window])
    return Quota(amount, window)


def to_token_bucket(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Convert to a bucket with the amount as its capacity, which is refilled once per window, continuously.

    Where that is not a valid bucket, it stays a quota, with a note.
    """
    period_us = _WINDOWS_US.get(window)
    if period_us is None:
        findings.note(place, "stays a quota: a token bucket refills within 31 days")
        return to_quota(amount, window, place, findings)
    try:
        return TokenBucket(amount, amount, period_us)
    except InvalidArgument as error:
        findings.note(place, f"stays a quota: {error.message}")
        return to_quota(amount, window, place, findings)


def import_files(files: Iterable[tuple[str, str]], convert: Conversion, findings: Findings) -> list[DomainRules]:
    """Read files, each a name and its text, and return the rules of each domain, in the order in which they appear.

    Files of one domain are merged. If `findings.has_errors` afterwards, the rules are not complete.
    """
    reader = EnvoyRatelimitReader(convert, findings)
    domains: dict[str, list[DomainFile]] = {}
    for name, text in files:
        found = reader.read(name, text)
        if found is not None:
            domains.setdefault(found.domain, []).append(found)
    return [rules for found in domains.values() if (rules := _merge(found, findings)) is not None]


def in_shadow(rules: DomainRules) -> DomainRules:
    """The same rules with every limit that could deny in mode SHADOW: it counts what it would have denied."""
    return replace(rules, descriptors=tuple(map(_node_in_shadow, rules.descriptors)))


def _node_in_shadow(node: RuleNode) -> RuleNode:
    return replace(
        node,
        limits=tuple(
            limit if isinstance(limit.algorithm, Unlimited) else replace(limit, mode=Mode.SHADOW)
            for limit in node.limits
        ),
        descriptors=tuple(map(_node_in_shadow, node.descriptors)),
    )


def _merge(files: list[DomainFile], findings: Findings) -> DomainRules | None:
    first, *others = files
    for file in others:
        findings.note(file.place, f"domain {first.domain!r} is merged with that of {first.place}")
    nodes: dict[tuple[str, str], PlacedNode] = {}
    for file in files:
        for placed in file.nodes:
            before = nodes.setdefault((placed.node.key, placed.node.value), placed)
            if before is not placed:
                findings.error(placed.place, f"the same key and value as in {before.place}; merge them")
    try:
        rules = DomainRules(first.domain, tuple(placed.node for placed in nodes.values()))
        check_new(rules)
    except InvalidArgument as error:
        findings.error(first.place, error.message)
        return None
    return rules
