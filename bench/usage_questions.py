"""What the console asks about usage, as requests to the API, and how long the answers take."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest, QueryUsageResponse

Q: Final = QueryUsageRequest
Ask = Callable[[QueryUsageRequest], QueryUsageResponse]

_MIN_MEASURES: Final = 20
_PLANS: Final = ("free", "pro", "enterprise")
_DENIED_NOW: Final = {"hours": 5 / 60, "top": 20, "order": Q.DENIED}


class Question(NamedTuple):
    """A question of the console: a name, and what makes its next request. The keys are drawn at random."""

    name: str
    request: Callable[[Random], QueryUsageRequest]


class Timing(NamedTuple):
    """How long the answers to a question took, in milliseconds, and how many rows the largest had."""

    name: str
    p50_ms: float
    p99_ms: float
    rows: int


def questions(keys: int) -> list[Question]:
    """The six questions of the console, in parts, and those of its list of keys."""

    def ask(name: str, make: Callable[[Random], dict[str, Any]]) -> Question:
        return Question(name, lambda random: _of(**make(random)))

    def one(random: Random) -> list[str]:
        return [_key(random, keys)]

    return [
        ask("a decisions, 6 h by 5 min", lambda _: {"hours": 6, "step": 5}),
        ask("b who is denied now", lambda _: _DENIED_NOW | {"by": [Q.SUBJECT]}),
        ask("b by which limit", lambda _: _DENIED_NOW | {"by": [Q.SUBJECT, Q.LIMIT]}),
        ask("c busiest keys, 6 h", lambda _: {"hours": 6, "by": [Q.KEY, Q.SUBJECT, Q.PLAN], "top": 10, "others": True}),
        ask("d a key, 6 h by 5 min", lambda random: {"hours": 6, "step": 5, "keys": one(random)}),
        ask("d a key, 24 h by 15 min", lambda random: {"hours": 24, "step": 15, "keys": one(random)}),
        ask("d a key, 7 d by hour", lambda random: {"hours": 7 * 24, "step": 60, "keys": one(random)}),
        ask("d a key, 30 d by 6 hours", lambda random: {"hours": 30 * 24, "step": 360, "keys": one(random)}),
        ask("d a subject, 24 h by 15 min", lambda random: {"hours": 24, "step": 15, "subject": _subject(random, keys)}),
        ask("d a key by resource, 24 h", lambda random: {"hours": 24, "by": [Q.RESOURCE], "keys": one(random)}),
        ask("d a key by limit, 24 h", lambda random: {"hours": 24, "by": [Q.LIMIT], "keys": one(random)}),
        ask("e a plan, 24 h by hour", lambda random: {"hours": 24, "step": 60, "plan": random.choice(_PLANS)}),
        ask("e a plan by limit, 24 h", lambda random: {"hours": 24, "by": [Q.LIMIT], "plan": random.choice(_PLANS)}),
        ask(
            "e a plan's busiest keys, 24 h",
            lambda random: {"hours": 24, "by": [Q.KEY], "top": 10, "plan": random.choice(_PLANS)},
        ),
        ask(
            "f 50 keys, 6 h by 5 min",
            lambda random: {"hours": 6, "step": 5, "by": [Q.KEY], "keys": _keys(random, keys, 50)},
        ),
        ask(
            "g totals of 100 keys, 24 h", lambda random: {"hours": 24, "by": [Q.KEY], "keys": _keys(random, keys, 100)}
        ),
    ]


OVERVIEW: Final = ("a ", "b ", "c ", "e a plan, ", "f ")
"""The first letters of what the overview asks, all at once."""


def measure(ask: Ask, question: Question, seconds: float, random: Random) -> Timing:
    """Ask one question again and again for SECONDS, at least twenty times."""
    taken: list[float] = []
    rows = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(taken) < _MIN_MEASURES:
        request = question.request(random)
        began = time.perf_counter()
        rows = max(rows, len(ask(request).rows))
        taken.append((time.perf_counter() - began) * 1000)
    return Timing(question.name, *percentiles(taken), rows)


def measure_overview(ask: Ask, keys: int, seconds: float, random: Random) -> Timing:
    """Ask all that the overview shows at once, again and again."""
    taken: list[float] = []
    asked = [question for question in questions(keys) if question.name.startswith(OVERVIEW)]
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(len(asked)) as pool:
        while time.monotonic() < until or len(taken) < _MIN_MEASURES:
            requests = [question.request(random) for question in asked]
            began = time.perf_counter()
            list(pool.map(ask, requests))
            taken.append((time.perf_counter() - began) * 1000)
    return Timing(f"overview: {len(asked)} questions at once", *percentiles(taken), 0)


def percentiles(taken: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile; of fewer than a hundred, that is the longest."""
    ordered = sorted(taken)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _of(  # noqa: PLR0913  one for each part of a question
    hours: float,
    *,
    step: int = 0,
    by: Sequence[QueryUsageRequest.Dimension.ValueType] = (),
    top: int = 0,
    order: QueryUsageRequest.Measure.ValueType = Q.CALLS,
    others: bool = False,
    keys: Sequence[str] = (),
    subject: str = "",
    plan: str = "",
) -> QueryUsageRequest:
    request = QueryUsageRequest(group_by=by, top=top, order_by=order, include_others=others)
    request.start_time.FromDatetime(datetime.now(UTC) - timedelta(hours=hours))
    request.step.FromTimedelta(timedelta(minutes=step))
    request.filter.key_ids.extend(keys)
    request.filter.subjects.extend([subject] if subject else [])
    request.filter.plans.extend([plan] if plan else [])
    return request


def _key(random: Random, keys: int) -> str:
    """A key; the busy ones, which are also those that people watch, more often than others."""
    return f"{max(1, round(keys ** random.random())) * 7919:016x}"


def _keys(random: Random, keys: int, number: int) -> list[str]:
    """NUMBER keys: the busiest half as many, and some others."""
    busiest = {f"{key * 7919:016x}" for key in range(1, number // 2)}
    return list(busiest | {_key(random, keys) for _ in range(number)})[:number]


def _subject(random: Random, keys: int) -> str:
    return f"customer-{round(keys ** random.random()) // 2:05}"
