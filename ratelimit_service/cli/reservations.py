"""`ratelimit-service settle` and `extend`: what becomes of a call that `check --hold` has reserved."""

from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import ExtendHoldRequest, SettleLimitRequest
from ratelimit_service.cli.check import print_limits
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.errors import Exit
from ratelimit_service.cli.options import AsJson, DecisionServer, Token, parse_hold
from ratelimit_service.cli.output import print_json
from ratelimit_service.cli.times import format_duration
from ratelimit_service.decision.limit import MAX_TOKENS

ReservationId = Annotated[str, typer.Argument(metavar="RESERVATION", help="The id that `check --hold` has printed.")]


def settle(
    reservation: ReservationId,
    *,
    cost: Annotated[int, typer.Option("--cost", min=0, max=MAX_TOKENS, help="Tokens that the call took in the end.")],
    server: DecisionServer = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Settle a reservation at its actual cost. Exits with 1 if a limit is used up then, 0 if not."""
    with connect(server, token, decides=True) as client:
        settled = client.settle_limit(SettleLimitRequest(reservation_id=reservation, actual_cost=cost))
    if as_json:
        print_json(settled)
    else:
        clamped = f"; {settled.clamped:,} tokens were above an overdraft and are not charged" if settled.clamped else ""
        typer.echo(f"settled; {'the next call may be allowed' if settled.allowed else 'a limit is used up'}{clamped}")
        print_limits(settled.limits)
    if not settled.allowed:
        raise typer.Exit(Exit.NO)


def extend(
    reservation: ReservationId,
    *,
    hold: Annotated[str, typer.Option("--hold", help="For how long from now on: 1s to 1h.")],
    server: DecisionServer = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Hold a reservation for longer."""
    with connect(server, token, decides=True) as client:
        extended = client.extend_hold(ExtendHoldRequest(reservation_id=reservation, hold=parse_hold(hold)))
    if as_json:
        print_json(extended)
    else:
        typer.echo(f"held for {format_duration(extended.hold)} from now on")
