"""The three answers of the overview: fixed sentences, filled from counts.

Each answer is a list of pieces of text. A piece may be strong, the name of a limit, or a link to a page of the console.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ratelimit_service.console import formats
from ratelimit_service.console.calls import NOW_US
from ratelimit_service.console.changes import Change
from ratelimit_service.console.health import Component, Health, State
from ratelimit_service.console.overview import Overview, Refused
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.usage.query_range import MINUTE

REASONS: Final[Mapping[str, str]] = {
    "KEY_REVOKED": "a key that is revoked",
    "KEY_SUSPENDED": "a key that is suspended",
    "KEY_EXPIRED": "a key that has expired",
    "DEGRADED_DENIED": "what plans say while Redis is away",
    "BLOCKED": "a rule that blocks",
}
"""What is counted as the limit of refusals without one, in words."""

_RISE: Final = 2.0
"""From this multiple of the usual share on, the usual one is stated."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a sentence. `path` and `query` are those of a page to link to."""

    text: str
    strong: bool = False
    limit: bool = False
    path: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    anchor: str = ""


def healthy(health: Health, overview: Overview | None, now_us: int) -> list[Piece]:
    """Is it healthy? The worst component first, then what decisions there are."""
    failing = health.failing[:2]
    if failing and failing[0].state is State.DOWN:
        pieces = [piece for component in failing for piece in _failing(component)]
        if overview is not None and overview.now.calls:
            # Counts are a minute old: they say how it was, not how it is now.
            rate = formats.rate(overview.now.calls / (NOW_US / MICRO))
            pieces.append(Piece(f"Until {formats.clock_time(overview.now_end_us, now_us)}: {rate} decisions/s."))
        return pieces
    pieces = [Piece("Deciding, but not all is well." if failing else "Deciding normally.", strong=True)]
    if overview is not None and overview.now.calls:
        pieces.append(Piece(f" {formats.rate(overview.now.calls / (NOW_US / MICRO))} decisions/s,"))
        degraded = overview.now.degraded
        share = formats.percent(degraded / overview.now.calls)
        pieces.append(Piece(f" {share} of them degraded." if degraded else " all of them exact."))
    elif overview is not None:
        pieces.append(Piece(" No call was counted in the last 5 min."))
    return [*pieces, Piece(" "), *(piece for component in failing for piece in _failing(component))]


def _failing(component: Component) -> list[Piece]:
    down = component.state is State.DOWN
    effect = f": {component.effect}. " if component.effect else ". "
    return [
        Piece(component.name, strong=down, anchor=anchor(component.name)),
        Piece(f" {component.value}", strong=down),
        Piece(effect),
    ]


def anchor(name: str) -> str:
    """The id of a component in the page."""
    return f"component-{name.lower().replace(' ', '-')}"


def refused(overview: Overview) -> list[Piece]:
    """Who is refused, and why? The share, the usual one if it differs, and who has most of it."""
    now = overview.now
    if not now.denied:
        counted = f" {formats.count(now.calls)} calls in the last 5 min, all of them went on."
        return [Piece("Nobody is refused.", strong=True), Piece(counted if now.calls else " No call was counted.")]
    pieces = [Piece(f"{formats.percent(overview.share)} of calls are refused", strong=True)]
    usual = overview.usual
    if usual is not None and (overview.share >= _RISE * usual or overview.share * _RISE <= usual):
        pieces.append(Piece(f", usually {formats.percent(usual)} at this hour."))
    else:
        pieces.append(Piece("." if usual is None else ", as usual at this hour."))
    if overview.refused:
        pieces += _most(overview.refused[0])
    elif overview.by_rules.denied:
        pieces += [Piece(" All of that is by "), Piece("descriptor rules", path=("rules",)), Piece(".")]
    return pieces


def _most(most: Refused) -> list[Piece]:
    pieces = [
        Piece(f" {formats.percent(most.of_all)} of that is "),
        Piece(most.subject, path=("subject",), query={"name": most.subject}),
    ]
    if most.limit in REASONS:
        return [*pieces, Piece(f", by {REASONS[most.limit]}.")]
    if most.limit:
        pieces += [Piece(", over "), Piece(most.limit, limit=True)]
        pieces += [Piece(" of plan "), Piece(most.plan, path=("plans", most.plan))]
    return [*pieces, Piece(".")]


def changed(overview: Overview, changes: Sequence[Change], now_us: int) -> list[Piece]:
    """What changed? A cause, if one may be named; else the last change, and no cause."""
    words = overview.span.words
    if overview.cause is not None:
        named = next((change for change in changes if change.event_id == overview.cause.suspect.event_id), None)
        if named is not None:
            return _cause(overview, named, now_us)
    if not changes:
        return [Piece(f"Nothing in the last {words}.", strong=True), *_rise(overview, now_us)]
    last = changes[0]
    count = f"{len(changes)}{' or more' if overview.more_changes else ''}"
    only = len(changes) == 1
    pieces = [
        Piece(f"{_what(last)} at {formats.clock_time(last.time_us, now_us)}", strong=True),
        Piece(f", by {last.actor}."),
        Piece(f" It is the only change in the last {words}." if only else f" {count} changes in the last {words}."),
    ]
    return [*pieces, *_rise(overview, now_us)]


def _cause(overview: Overview, named: Change, now_us: int) -> list[Piece]:
    cause = overview.cause
    assert cause is not None  # noqa: S101  the caller has looked
    limit = cause.suspect.limit
    one = next((each for each in named.fields if each.name == limit), None)
    pieces = [Piece(f"{_what(named)} at {formats.clock_time(named.time_us, now_us)}", strong=True)]
    if one is not None:
        was = f" from {one.old}" if one.old else ""
        now = f" to {one.new}" if one.new else ", which is gone"
        pieces += [Piece(" changed ", strong=True), Piece(limit, strong=True, limit=True)]
        pieces.append(Piece(f"{was}{now}.", strong=True))
    else:
        pieces.append(Piece("."))
    verb = "began" if cause.began else "doubled"
    after = formats.duration(max(1, -(-cause.after_us // MINUTE)) * MINUTE)
    pieces += [Piece(" Refusals by "), Piece(limit, limit=True)]
    pieces.append(Piece(f" {verb} within {after} of it and are at {formats.rate(overview.cause_per_second)}/s now. "))
    if named.path:
        pieces.append(Piece("See the change", path=named.path, query=named.query))
    return pieces


def _rise(overview: Overview, now_us: int) -> list[Piece]:
    """When refusals began to rise, without a cause."""
    usual = overview.usual or 0.0
    if not overview.now.denied or overview.share < max(_RISE * usual, 0.01):
        return []
    risen = None
    for each in reversed(overview.series.bins):
        if each.share < max(_RISE * usual, 0.01):
            break
        risen = each.start_us
    if risen is None or risen == overview.series.start_us:
        return []
    return [Piece(f" Refusals rose at about {formats.clock_time(risen, now_us)}; no change of a limit just before.")]


def _what(change: Change) -> str:
    noun, _, name = change.target.partition("/")
    if noun == "plans":
        version = change.what.rpartition(", ")[2] if ", v" in change.what else change.what.partition(" ")[2]
        return f"{name} {version}"
    return f"{change.what} for {name}" if noun in {"subjects", "domains"} else change.what
