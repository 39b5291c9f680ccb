"""A limit in a line."""

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Limit, Quota
from ratelimit_service.cli.times import format_duration


def describe_limit(limit: Limit) -> str:
    """The limit in words: `burst: 20 tokens, 10 more every 1s, for orders.*`."""
    words = f"{limit.name}: {_algorithm(limit)}"
    if limit.resource not in {"", "*"}:
        words += f", for {limit.resource}"
    return words + " (shadow)" * (limit.mode == Limit.SHADOW)


def _algorithm(limit: Limit) -> str:
    if limit.WhichOneof("algorithm") == "quota":
        window = Quota.Window.Name(limit.quota.window).lower()
        return f"{limit.quota.amount:,} {'an' if window == 'hour' else 'a'} {window}"
    bucket = limit.token_bucket
    period = format_duration(bucket.refill_period)
    return f"{bucket.capacity:,} tokens, {bucket.refill_tokens:,} more every {period}"
