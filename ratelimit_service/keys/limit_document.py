"""Limits as plain documents, for storage and for the audit record: dicts, lists, strings and whole numbers only."""

from collections.abc import Mapping
from typing import Any

from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket, Window

Document = Mapping[str, Any]


def to_document(limit: Limit) -> dict[str, Any]:
    """Return the document of a limit."""
    return {
        "name": limit.name,
        "resource": limit.resource,
        "mode": limit.mode.value,
        **algorithm_to_document(limit.algorithm),
    }


def from_document(document: Document) -> Limit:
    """Return the limit of a document.

    Raises InvalidArgument, KeyError, TypeError, AttributeError or ValueError when it makes no valid limit.
    """
    return Limit(document["name"], algorithm_from_document(document), document["resource"], Mode(document["mode"]))


def algorithm_to_document(algorithm: TokenBucket | Quota) -> dict[str, Any]:
    """Return that part of a limit's document that says how it counts."""
    if isinstance(algorithm, TokenBucket):
        return {
            "token_bucket": {
                "capacity": algorithm.capacity,
                "refill_tokens": algorithm.refill_tokens,
                "refill_period_us": algorithm.refill_period_us,
            }
        }
    return {"quota": {"amount": algorithm.amount, "window": algorithm.window.value}}


def algorithm_from_document(document: Document) -> TokenBucket | Quota:
    """Return how the limit of a document counts. Raises like `from_document`."""
    if "token_bucket" in document:
        body = document["token_bucket"]
        return TokenBucket(int(body["capacity"]), int(body["refill_tokens"]), int(body["refill_period_us"]))
    body = document["quota"]
    return Quota(int(body["amount"]), Window(body["window"]))
