"""A decision, and the explanation of one, as a person sees them."""

import typer

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.limit_pb2 import LimitLevel, WeighedLimit
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.cli.durations import format_duration
from ratelimit_service.cli.output import print_table
from ratelimit_service.cli.views.limit import describe_limit


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
        print_table(("LIMIT", "LEFT", "OF", "UNTOUCHED IN", "VERDICT"), map(_weighed, decision.limits))


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


def _weighed(limit: WeighedLimit) -> tuple[str, ...]:
    verdict = "fits"
    if limit.would_deny:
        verdict = "would deny (shadow)" if limit.shadow else "does not fit"
        verdict += f", fits in {format_duration(limit.retry_after)}" if limit.HasField("retry_after") else ""
    return (
        limit.name,
        f"{limit.remaining:,}",
        f"{limit.limit:,}",
        format_duration(limit.reset_after),
        verdict,
    )
