"""At the peak rate, nine of ten keys made up: the stores notice nothing, and who has a key is served as before."""

import re

from attacks.attacked import Report, Target, attacked
from attacks.load import load
from attacks.sizes import ATTACK_SECONDS, FULL, LATENCY_FACTOR
from ratelimit_service.decision.lookup_budget import BURST

KEYS = 50
MADE_UP = 0.9
STATEMENTS_PER_SECOND = 10
LOOKUP = re.compile(r"\b(FROM|JOIN) \"?(keys|key_secrets|overrides|plans)\b")

COMMANDS = 1.25
"""Commands of Redis for a call with a key that exists, beside made-up ones, relative to those without them."""


def assert_few_lookups(report: Report) -> None:
    """Few statements read keys or what belongs to them: 10 a second, and in a short attack those saved up before it."""
    statements = report.stores.statements
    found = sum(calls for query, calls in statements.items() if LOOKUP.search(query))
    assert found <= STATEMENTS_PER_SECOND * report.seconds + (0 if FULL else 2 * BURST), statements


def test_garbage_at_the_peak(target: Target) -> None:
    """90 % garbage keys at the peak rate: Postgres <= 10 statements/s and worker, Redis 0, valid p99 <= 2 x."""
    keys = [target.server.key("wide")[1] for _ in range(KEYS)]
    with attacked(target, "peak, all keys known", check=False) as known:
        counts = known.attack(load, keys, 0.0)
    assert counts["known"] > 200 * ATTACK_SECONDS
    with attacked(target, "peak, 90 % of keys made up", check=False) as mixed:
        found = mixed.attack(load, keys, MADE_UP)
    assert found["made up"] > 200 * ATTACK_SECONDS
    assert set(found) == {"known", "made up"}, found  # no reset, and no connection closed
    assert sum(mixed.during.errors.values()) <= max(20, 3 * sum(known.during.errors.values())), mixed.row()
    assert mixed.during.degraded == mixed.during.denied == 0
    assert_few_lookups(mixed)
    assert mixed.during.p99_ms <= LATENCY_FACTOR * (2 * known.during.p99_ms + 2), (mixed.row(), known.row())


def test_garbage_alone(target: Target) -> None:
    """Made-up keys alone, as fast as the server answers, cause no command of Redis beyond the victim's own."""
    with attacked(target, "made-up keys alone", check=False) as report:
        counts = report.attack(load, ["rlk_live_none"], 1.0)
    assert counts["made up"] > 200 * ATTACK_SECONDS
    victim = report.during.calls / (report.span[1] - report.span[0])
    evaluated = report.stores.commands["evalsha"] / report.seconds
    assert evaluated <= COMMANDS * victim + 5, report.stores.commands
