"""`ratelimit-service check` and `explain`: decide a call, and explain the decision."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import LimitLevel, LimitResult
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.cli.options import AsJson, DecisionServer, Output, Server, Token, output_format, parse_hold
from ratelimit_service.cli.output import Format, describe_limit, print_as, print_json, print_table
from ratelimit_service.cli.times import format_wait
from ratelimit_service.decision.limit import MAX_TOKENS

if TYPE_CHECKING:
    from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitResponse

ApiKey = Annotated[
    str | None,
    typer.Argument(
        envvar="RATELIMIT_API_KEY",
        metavar="KEY",
        help="The API key, or - to read it from standard input; or its key_id, if the token allows that.",
    ),
]
Resource = Annotated[str, typer.Option("--resource", help="The resource, as the gateway names it: orders.create.")]
Cost = Annotated[
    int | None,
    typer.Option("--cost", min=0, max=MAX_TOKENS, help="Tokens that the call takes; 0 only peeks. Default: 1."),
]
RequestId = Annotated[
    str, typer.Option("--request-id", help="Makes retries idempotent: charged once, with the same response.")
]
_WHY_NOT = {"hold": "only calls with a hold count", "resource": "other resources"}
"""Causes that need more words than one."""

_UNREADABLE = "a row of the key in Postgres cannot be read: see the server's log"
_UNREADABLE_HERE = (
    f"{_UNREADABLE}. That is how a worker decides that knows nothing valid of it from before, as the process that was "
    "asked; others go on by what was valid last"
)
_KEY_ID = re.compile(r"[0-9A-Za-z]{16}")


def check(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    request_id: RequestId = "",
    always: Annotated[
        bool, typer.Option("--always", help="Charge the cost whatever the limits have: it was incurred already.")
    ] = False,
    hold: Annotated[
        str, typer.Option("--hold", help="Reserve the cost, an estimate, for so long: 30s. `settle` replaces it.")
    ] = "",
    server: DecisionServer = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Decide one call and charge it. Exits with 0 if it is allowed, 1 if it is denied, more if nothing was decided."""
    with connect(server, token, decides=True) as client:
        credential = _credential(key)
        request = CheckLimitRequest(
            api_key=credential.get("api_key"),
            key_id=credential.get("key_id"),
            resource=resource,
            cost=cost,
            request_id=request_id,
            charge=CheckLimitRequest.ALWAYS if always else CheckLimitRequest.IF_ALLOWED,
            hold=parse_hold(hold) if hold else None,
        )
        decision = client.check_limit(request)
    if as_json:
        print_json(decision)
    else:
        typer.echo("charged; for the next call: " if always and decision.limits else "", nl=False)
        print_decision(decision, degraded(decision))
        if decision.reservation_id:
            typer.echo(f"\nreservation {decision.reservation_id}")
        _hint(credential, decision)
    if not decision.allowed:
        raise typer.Exit(Exit.NO)


def explain(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show every limit that a decision on this call would consider, and the level that set it. Charges nothing."""
    from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest  # noqa: PLC0415  not `check`

    with connect(server, token) as client:
        credential = _credential(key)
        explanation = client.explain_limit(ExplainLimitRequest(**credential, resource=resource, cost=cost))
        print_as(output_format(output, as_json=as_json), explanation, _print_explanation)
    _hint(credential, explanation.decision)


def _credential(key: str | None) -> dict[str, str]:
    """The request's field for the key, with its value. Raises CommandError if no key was given."""
    if key is None:
        raise CommandError.usage("no key: give it as KEY or in RATELIMIT_API_KEY, or - to read it from standard input")
    text = sys.stdin.readline().strip() if key == "-" else key
    return {"key_id" if _KEY_ID.fullmatch(text) else "api_key": text}


def _hint(credential: Mapping[str, str], decision: CheckLimitResponse) -> None:
    """Print why a key is unknown, if its own text shows it."""
    if decision.reason != CheckLimitResponse.KEY_UNKNOWN or "api_key" not in credential:
        return
    from ratelimit_service.decision.api_key import ApiKey as PresentedKey  # noqa: PLC0415  most keys are known

    if not PresentedKey.parse(credential["api_key"]):
        typer.echo("it is no API key, but mistyped or cut off; nor a key_id, of 16 letters and digits", err=True)


def print_decision(decision: CheckLimitResponse, why_degraded: str) -> None:
    """Print the decision and its reason, then the result of every limit that was evaluated.

    WHY_DEGRADED is why the bucket store did not decide, if it did not.
    """
    line = f"{'allowed' if decision.allowed else 'denied'}: {CheckLimitResponse.Reason.Name(decision.reason)}"
    if decision.limit:
        line += f"; limit {decision.limit}, {decision.remaining:,} left"
    if decision.HasField("retry_after"):
        line += f"; retry after {format_wait(decision.retry_after)}"
    if decision.key_id:
        line += f"; key {decision.key_id} of {decision.subject} on plan {decision.plan}"
    if decision.source == CheckLimitResponse.DEGRADED:
        line += f"; {why_degraded}"
    if decision.source == CheckLimitResponse.UNENFORCED:
        line += "; enforcement is off, so that no limit refuses a call: see `ratelimit-service enforcement status`"
    typer.echo(line)
    print_limits(decision.limits)


def degraded(decision: CheckLimitResponse) -> str:
    """Why the bucket store did not decide, as far as the decision shows it."""
    if not decision.key_id:
        return "the key could not be looked up in time"
    if decision.allowed:
        return "the bucket store was unavailable"
    if decision.limits:
        return "the bucket store was unavailable, or had no memory for a new bucket"
    return f"the bucket store was unavailable, or {_UNREADABLE}"


def print_limits(limits: Sequence[LimitResult]) -> None:
    """Print the results of limits as a table, after an empty line; nothing if there are none."""
    if limits:
        typer.echo()
        print_table(("LIMIT", "LEFT", "OF", "RESETS IN", "RESULT"), map(_limit_result, limits))


def _limit_result(limit: LimitResult) -> tuple[str, ...]:
    result = "fits"
    if limit.would_deny:
        result = "would deny (shadow)" if limit.shadow else "does not fit"
        result += f", fits in {format_wait(limit.retry_after)}" if limit.HasField("retry_after") else ""
    return limit.name, f"{limit.remaining:,}", f"{limit.limit:,}", format_wait(limit.reset_after), result


def _print_explanation(explanation: "ExplainLimitResponse") -> None:
    """Print what would be decided now, then every limit that was considered."""
    typer.echo("would be ", nl=False)
    print_decision(
        explanation.decision, _UNREADABLE_HERE
    )  # without the bucket store, there is an error and no explanation
    if not explanation.limits:
        return
    typer.echo()
    print_table(
        ("CONSIDERED", "SET BY", "APPLIES", "BUCKET"),
        (
            (
                describe_limit(considered.limit),
                LimitLevel.Name(considered.level).lower(),
                "yes" if considered.applies else f"no: {_WHY_NOT.get(considered.why_not, considered.why_not)}",
                considered.bucket,
            )
            for considered in explanation.limits
        ),
    )
    typer.echo(f"\nplan {explanation.decision.plan}, version {explanation.plan_version}")
