"""`ratelimit-service check` and `explain`: one decision, and why it is what it is."""

from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import LimitLevel, LimitResult
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.cli.client import ApiKey, connect, parse_credential
from ratelimit_service.cli.fault import Exit
from ratelimit_service.cli.limit_view import describe_limit
from ratelimit_service.cli.options import AsJson, Server, Token
from ratelimit_service.cli.output import print_json, print_table
from ratelimit_service.cli.times import format_duration


def print_decision(decision: CheckLimitResponse) -> None:
    """Print what was decided and why, then every limit that was weighed."""
    words = ["allowed" if decision.allowed else "denied", CheckLimitResponse.Reason.Name(decision.reason)]
    if decision.limit:
        words.append(f"limit {decision.limit}, {decision.remaining:,} left")
    if decision.HasField("retry_after"):
        words.append(f"retry after {format_duration(decision.retry_after)}")
    if decision.key_id:
        words.append(f"key {decision.key_id} of {decision.subject} on plan {decision.plan}")
    if decision.source == CheckLimitResponse.DEGRADED:
        words.append("the bucket store could not be asked")
    typer.echo(": ".join(words[:2]) + "".join(f"; {more}" for more in words[2:]))
    if decision.limits:
        typer.echo()
        print_table(("LIMIT", "LEFT", "OF", "UNTOUCHED IN", "VERDICT"), map(_limit_results, decision.limits))


def print_explanation(explanation: ExplainLimitResponse) -> None:
    """Print what would be decided now, then every limit that was considered."""
    typer.echo("would be ", nl=False)
    print_decision(explanation.decision)
    if not explanation.limits:
        return
    typer.echo()
    print_table(
        ("CONSIDERED", "SET BY", "APPLIES", "BUCKET"),
        (
            (
                describe_limit(considered.limit),
                LimitLevel.Name(considered.level).lower(),
                "yes" if considered.applies else f"no: {considered.why_not}",
                considered.bucket,
            )
            for considered in explanation.limits
        ),
    )
    typer.echo(f"\nplan {explanation.decision.plan}, version {explanation.plan_version}")


def _limit_results(limit: LimitResult) -> tuple[str, ...]:
    answer = "fits"
    if limit.would_deny:
        answer = "would deny (shadow)" if limit.shadow else "does not fit"
        answer += f", fits in {format_duration(limit.retry_after)}" if limit.HasField("retry_after") else ""
    return (
        limit.name,
        f"{limit.remaining:,}",
        f"{limit.limit:,}",
        format_duration(limit.reset_after),
        answer,
    )


Resource = Annotated[str, typer.Option("--resource", help="What is called, as the gateway names it: orders.create.")]
Cost = Annotated[
    int | None,
    typer.Option("--cost", min=0, max=1_000_000, help="Tokens that the call takes; 0 only looks. Default: 1."),
]
RequestId = Annotated[
    str, typer.Option("--request-id", help="Makes a repeated call be charged once and answered the same.")
]


def check(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    request_id: RequestId = "",
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Decide one call and charge it. Exits with 0 if it is allowed, 1 if it is denied, more if nothing was decided."""
    with connect(server, token) as client:
        request = CheckLimitRequest(**parse_credential(key), resource=resource, cost=cost, request_id=request_id)
        decision = client.check_limit(request)
    (print_json if as_json else print_decision)(decision)
    if not decision.allowed:
        raise typer.Exit(Exit.NO)


def explain(
    key: ApiKey = None,
    *,
    resource: Resource = "",
    cost: Cost = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say all that a decision on this call would weigh, and which level set each limit. Charges nothing."""
    with connect(server, token) as client:
        request = ExplainLimitRequest(**parse_credential(key), resource=resource, cost=cost)
        explanation = client.explain_limit(request)
    (print_json if as_json else print_explanation)(explanation)
