"""`ratelimit-service demo`: send traffic to a running server, and draw what is allowed and refused."""

import time
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple

import typer

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.cli.check import ApiKey
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.options import DecisionServer, Token
from ratelimit_service.cli.target import dev_state
from ratelimit_service.cli.times import format_wait

_RESOURCE: Final = "demo"
_STEP_SECONDS: Final = 0.5
_CALM, _BUSY = 5, 40
"""Calls in a second: below the rate of the plan `free`, and above it."""

_PART_CALM: Final = 0.25
"""Of the time at the begin, and again at the end, is calm; between them it is busy."""


class _Step(NamedTuple):
    """What became of the calls of half a second."""

    allowed: int
    refused: int
    last: CheckLimitResponse | None
    """The last response that refused, None if none did."""


def demo(
    key: ApiKey = None,
    *,
    seconds: Annotated[int, typer.Option("--seconds", min=2, max=3600, help="For how long to send.")] = 8,
    server: DecisionServer = None,
    token: Token = None,
) -> None:
    """Send calls of one key, few, then many, then few, and draw what is allowed and refused.

    KEY is the demo key of the server that `dev` started here, if none is given. Its tokens are spent.
    """
    with connect(server, token, decides=True) as client:
        state = dev_state() if server is None else None
        secret = key or (state.api_key if state else None)
        if secret is None:
            raise CommandError.usage("no key: start a server here with `ratelimit-service dev`, or give a KEY")
        typer.echo(f"{_CALM} calls a second, then {_BUSY}, then {_CALM}: + is allowed, . is refused\n")
        allowed = refused = 0
        for at, step in _steps(client, secret, seconds):
            allowed, refused = allowed + step.allowed, refused + step.refused
            typer.echo(_line(at, step))
        typer.echo(f"\nallowed {allowed}, refused {refused}")
        if state and state.console:
            typer.echo(f"what was counted, a minute from now: {state.console} (its token is in dev.json)")


def _steps(client: Client, secret: str, seconds: int) -> Iterator[tuple[float, _Step]]:
    """Send the calls of one step after another, each call when it is due."""
    count = round(seconds / _STEP_SECONDS)
    began = time.monotonic()
    for number in range(count):
        busy = _PART_CALM <= number / count < 1 - _PART_CALM
        calls = round((_BUSY if busy else _CALM) * _STEP_SECONDS)
        starts = began + number * _STEP_SECONDS
        yield number * _STEP_SECONDS, _step(client, secret, calls, starts)


def _step(client: Client, secret: str, calls: int, starts: float) -> _Step:
    allowed, last = 0, None
    for number in range(calls):
        time.sleep(max(starts + number * _STEP_SECONDS / calls - time.monotonic(), 0))
        decision = client.check_limit(CheckLimitRequest(api_key=secret, resource=_RESOURCE))
        allowed += decision.allowed
        last = last if decision.allowed else decision
    return _Step(allowed, calls - allowed, last)


def _line(at: float, step: _Step) -> str:
    """One step: when it began, a sign for each call, and why calls were refused."""
    line = f"{at:5.1f} s  {'+' * step.allowed}{'.' * step.refused}"
    if step.last is None:
        return line
    line = f"{line:<32}{CheckLimitResponse.Reason.Name(step.last.reason)}"
    if step.last.limit:
        line += f" by {step.last.limit}"
    if step.last.HasField("retry_after"):
        line += f", again in {format_wait(step.last.retry_after)}"
    return line
