"""What a plan or the rules of a domain in a file would decide: `plans test` and `rules test`."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import typer

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DomainRules
from ratelimit_service.api.key_admin.plan_messages import draft_from_proto
from ratelimit_service.api.key_admin.rules_messages import rules_from_proto
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.cli.check import print_decision
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.memory import plan_engine, rules_engine
from ratelimit_service.cli.output import print_table
from ratelimit_service.cli.times import format_microseconds
from ratelimit_service.decision.charge import NEVER
from ratelimit_service.decision.descriptors.outcome import DescriptorStatus, RequestDecision
from ratelimit_service.decision.descriptors.request import API_KEY, DescribedRequest, Descriptor, Entries
from ratelimit_service.decision.descriptors.rules import Blocked, Unlimited
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.usage import RuleSeries, parse_field
from ratelimit_service.errors import InvalidArgument

_COMMA: Final = re.compile(r"(?<!\\),")
"""Between two entries; a comma in a value has a backslash before it."""


def try_plan(plan: Plan, resource: str, cost: int, calls: int) -> None:
    """Decide so many calls that come at once, of a new key on PLAN, and print which are allowed and what is left.

    Raises CommandError for a resource that is none, and Exit if the last call is denied.
    """
    engine, key_id = plan_engine(draft_from_proto(plan))
    check = Check(key_id=key_id, resource=resource, cost=cost)

    async def decide() -> list[CheckLimitResponse]:
        encoder = DecisionEncoder()
        encoded = [encoder.encode(await engine.check(check)) for _ in range(calls)]
        return [CheckLimitResponse.FromString(each) for each in encoded]

    try:
        decisions = asyncio.run(decide())
    except InvalidArgument as error:
        raise CommandError.usage(f"--{error.message}") from None
    if calls > 1:
        for line in _grouped(decisions):
            typer.echo(line)
        typer.echo(f"\ncall {calls}: ", nl=False)
    last = decisions[-1]
    last.ClearField("key_id")  # of no key that anybody has
    print_decision(last, "")
    if not last.allowed:
        raise typer.Exit(Exit.NO)


def try_rules(message: DomainRules, descriptors: Sequence[str], hits: int) -> None:
    """Decide one request with these descriptors, and print which rule each matched, and what its limits have left.

    Raises CommandError for descriptors that are none, and Exit if the request is denied.
    """
    rules = rules_from_proto(message)
    engine, cache = rules_engine(rules)
    described = [Descriptor(_entries(text), hits) for text in descriptors]

    async def decide() -> tuple[RequestDecision, list[str]]:
        await cache.refresh_all()
        tree = cache.get(rules.domain) or cache.without_rules(rules.domain)
        decision = await engine.decide(await engine.prepare(DescribedRequest(rules.domain, described)))
        return decision, [_path(tree.match(each.entries).series.field) for each in described]

    try:
        decision, paths = asyncio.run(decide())
    except InvalidArgument as error:
        raise CommandError.usage(f"--descriptor: {error.message}") from None
    typer.echo(f"{'allowed' if decision.allowed else 'denied'}, in domain {escaped(rules.domain)}")
    for text, path, status in zip(descriptors, paths, decision.statuses, strict=True):
        rule = f"rule {path}" if path else "no rule, so that it passes"
        typer.echo(escaped(f"\n{text}: {rule}: {_described(status)}"))
        rows = list(_rows(status))
        if rows:
            print_table(("LIMIT", "LEFT", "OF", "RESETS IN", "RESULT"), rows)
    if not decision.allowed:
        raise typer.Exit(Exit.NO)


def _grouped(decisions: Iterable[CheckLimitResponse]) -> Iterator[str]:
    """A line for each run of calls with the same outcome."""
    first = 1
    for (allowed, reason, limit), those in groupby(
        decisions, lambda one: (one.allowed, one.reason, "" if one.allowed else one.limit)
    ):
        last = first + len(list(those)) - 1
        numbers = f"call {first:,}" if first == last else f"calls {first:,} to {last:,}"
        why = f"{CheckLimitResponse.Reason.Name(reason)}{f', limit {limit}' if limit else ''}"
        yield f"{numbers}: {'allowed' if allowed else 'denied'}: {why}"
        first = last + 1


def _entries(text: str) -> Entries:
    """The entries of `key=value,key2=value2`. Raises CommandError for a part without `=`."""
    entries = []
    for part in _COMMA.split(text):
        key, equals, value = part.replace("\\,", ",").partition("=")
        if not equals or not key:
            raise CommandError.usage(
                f"--descriptor: {part!r} is no entry; write key=value, with a backslash before a comma in a value"
            )
        if key == API_KEY:
            raise CommandError.usage(
                f"--descriptor: one with an entry {API_KEY} is decided by the plan of that key: see `plans test`"
            )
        entries.append((key, value))
    return tuple(entries)


def _path(field: bytes) -> str:
    """The rule that a series is of, by its configured keys and values. Empty if there is none."""
    if not field:
        return ""
    series = parse_field(field).series
    return series.rule if isinstance(series, RuleSeries) else ""


def _described(status: DescriptorStatus) -> str:
    text = f"{'allowed' if status.allowed else 'denied'}: {status.reason.name}"
    if status.limit is not None and isinstance(status.limit.algorithm, Unlimited | Blocked):
        text += f", {type(status.limit.algorithm).__name__.lower()}"
        text += " (shadow)" * (not status.limit.enforced and isinstance(status.limit.algorithm, Blocked))
    if not status.allowed and status.wait_us > 0:
        text += f"; retry after {format_microseconds(status.wait_us)}"
    return text


def _rows(status: DescriptorStatus) -> Iterator[tuple[str, ...]]:
    for limit, (remaining, wait_us, reset_us) in zip(status.limits, status.results, strict=True):
        result = "fits"
        if wait_us:
            result = "does not fit" if limit.enforced else "would deny (shadow)"
            result += ", ever" if wait_us == NEVER else f", fits in {format_microseconds(wait_us)}"
        capacity = limit.bucket.limit.capacity if limit.bucket else 0
        yield limit.name or "-", f"{remaining // MICRO:,}", f"{capacity:,}", format_microseconds(reset_us), result
