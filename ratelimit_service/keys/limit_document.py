"""Limits as plain documents, for storage and for the audit record: dicts, lists, strings and whole numbers only."""

from collections.abc import Mapping
from typing import Any

from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket, Window

Document = Mapping[str, Any]


def to_document(limit: Limit) -> dict[str, Any]:
    """Return the document of a limit."""
    algorithm = limit.algorithm
    body: dict[str, Any]
    if isinstance(algorithm, TokenBucket):
        kind = "token_bucket"
        body = {
            "capacity": algorithm.capacity,
            "refill_tokens": algorithm.refill_tokens,
            "refill_period_us": algorithm.refill_period_us,
        }
    else:
        kind = "quota"
        body = {"amount": algorithm.amount, "window": algorithm.window.value}
    return {"name": limit.name, "resource": limit.resource, "mode": limit.mode.value, kind: body}


def from_document(document: Document) -> Limit:
    """Return the limit of a document.

    Raises InvalidArgument, KeyError, TypeError, AttributeError or ValueError when it makes no valid limit.
    """
    algorithm: TokenBucket | Quota
    if "token_bucket" in document:
        body = document["token_bucket"]
        algorithm = TokenBucket(int(body["capacity"]), int(body["refill_tokens"]), int(body["refill_period_us"]))
    else:
        body = document["quota"]
        algorithm = Quota(int(body["amount"]), Window(body["window"]))
    return Limit(document["name"], algorithm, document["resource"], Mode(document["mode"]))
