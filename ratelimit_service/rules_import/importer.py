"""From files of envoyproxy/ratelimit to the rules of domains."""

from collections.abc import Iterable

from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, Window
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
    Window.WEEK: "a week begins on Monday here, on Thursday there",
    Window.MONTH: "a month is the calendar's here, 30 days counted from 1970 there",
    Window.YEAR: "a year is the calendar's here, 365 days counted from 1970 there",
}
"""Where the windows differ: there, time since 1970 is divided by the length of the unit."""


def to_quota(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Make a quota with the same windows: up to a day they begin and end at the same moments."""
    if window in _CALENDAR:
        findings.note(place, _CALENDAR[window])
    return Quota(amount, window)


def to_token_bucket(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Make a bucket that holds the amount and gains it once per window, continuously.

    Where that makes no bucket it stays a quota, with a note.
    """
    period_us = _WINDOWS_US.get(window)
    if period_us is None:
        findings.note(place, "stays a quota: a token bucket refills within 31 days")
        return to_quota(amount, window, place, findings)
    try:
        return TokenBucket(amount, amount, period_us)
    except InvalidArgument as fault:
        findings.note(place, f"stays a quota: {fault.message}")
        return to_quota(amount, window, place, findings)


def import_files(files: Iterable[tuple[str, str]], convert: Conversion, findings: Findings) -> list[DomainRules]:
    """Read files, each a name and its text, and return the rules of each domain, in the order in which they are named.

    Files of one domain are joined. When `findings.refused` afterwards, the rules are not all that the files say.
    """
    reader = EnvoyRatelimitReader(convert, findings)
    domains: dict[str, list[DomainFile]] = {}
    for name, text in files:
        try:
            found = reader.read(name, text)
        except RecursionError:
            findings.error(Place(name, 1), "an anchor of the file holds itself")
            continue
        if found is not None:
            domains.setdefault(found.domain, []).append(found)
    return [rules for found in domains.values() if (rules := _joined(found, findings)) is not None]


def _joined(files: list[DomainFile], findings: Findings) -> DomainRules | None:
    first, *others = files
    for file in others:
        findings.note(file.place, f"domain {first.domain!r} is joined with that of {first.place}")
    nodes: dict[tuple[str, str], PlacedNode] = {}
    for file in files:
        for placed in file.nodes:
            before = nodes.setdefault((placed.node.key, placed.node.value), placed)
            if before is not placed:
                findings.error(placed.place, f"the same key and value as in {before.place}; make them one")
    try:
        return DomainRules(first.domain, tuple(placed.node for placed in nodes.values()))
    except InvalidArgument as fault:
        findings.error(first.place, fault.message)
        return None
