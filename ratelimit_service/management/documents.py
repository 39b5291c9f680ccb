"""Limits and rule trees as JSON documents, for storage and for the audit log.

Dicts, lists, strings, whole numbers and booleans only. In a rule, a field that is left out has its default, so that
documents stay as short as the rules are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    RuleCharge,
    RuleLimit,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.limit import Algorithm, Concurrency, Counting, Limit, Mode, Quota, TokenBucket, Window

Document = Mapping[str, Any]

_ALGORITHMS = ("token_bucket", "quota", "unlimited", "blocked")


def limit_to_document(limit: Limit) -> dict[str, Any]:
    """Return the document of a limit."""
    return {
        "name": limit.name,
        "resource": limit.resource,
        "mode": limit.mode.value,
        **_counting_to_document(limit),
        **algorithm_to_document(limit.algorithm),
    }


def limit_from_document(document: Document) -> Limit:
    """Return the limit of a document.

    Raises InvalidArgument, KeyError, TypeError, AttributeError or ValueError when it is not a valid limit.
    """
    return Limit(
        document["name"],
        algorithm_from_document(document),
        document["resource"],
        Mode(document["mode"]),
        _counts_from_document(document),
        _overdraft_from_document(document),
    )


def _counting_to_document(limit: Limit | RuleLimit) -> dict[str, Any]:
    """What a limit counts and its overdraft, where they are set: the documents of earlier versions have neither."""
    document: dict[str, Any] = {} if limit.counts is Counting.COST else {"counts": limit.counts.value}
    return document if limit.overdraft is None else document | {"overdraft": limit.overdraft}


def _counts_from_document(document: Document) -> Counting:
    return Counting(document.get("counts", Counting.COST.value))


def _overdraft_from_document(document: Document) -> int | None:
    return _whole(document, "overdraft") if "overdraft" in document else None


def algorithm_to_document(algorithm: Algorithm) -> dict[str, Any]:
    """Return the part of a limit's document that holds its algorithm."""
    if isinstance(algorithm, Concurrency):
        return {"concurrency": {"max": algorithm.max, "default_hold_us": algorithm.default_hold_us}}
    if isinstance(algorithm, TokenBucket):
        return {
            "token_bucket": {
                "capacity": algorithm.capacity,
                "refill_tokens": algorithm.refill_tokens,
                "refill_period_us": algorithm.refill_period_us,
            }
        }
    return {"quota": {"amount": algorithm.amount, "window": algorithm.window.value}}


def algorithm_from_document(document: Document) -> Algorithm:
    """Return the algorithm of a limit's document. Raises like `limit_from_document`."""
    if sum(name in document for name in ("token_bucket", "quota", "concurrency")) > 1:
        raise ValueError("it counts in more than one way")
    if "concurrency" in document:
        body = document["concurrency"]
        return Concurrency(_whole(body, "max"), _whole(body, "default_hold_us"))
    if "token_bucket" in document:
        body = document["token_bucket"]
        return TokenBucket(*(_whole(body, name) for name in ("capacity", "refill_tokens", "refill_period_us")))
    body = document["quota"]
    return Quota(_whole(body, "amount"), Window(body["window"]))


def _whole(body: Document, name: str) -> int:
    number = body[name]
    if type(number) is not int:  # a bool is an int too, and a double may be infinite
        raise TypeError(f"{name} must be a whole number, not {type(number).__name__}")
    return number


def nodes_to_documents(nodes: Iterable[RuleNode]) -> list[dict[str, Any]]:
    """Return the documents of a level and all below it."""
    return [node_to_document(node) for node in nodes]


def nodes_from_documents(documents: object) -> tuple[RuleNode, ...]:
    """Return the level of a list of documents. Raises like `node_from_document`."""
    if not isinstance(documents, list):
        raise TypeError(f"a level of rules must be a list, not {type(documents).__name__}")
    return tuple(node_from_document(document) for document in documents)


def node_to_document(node: RuleNode) -> dict[str, Any]:
    """Return the document of a node and all below it."""
    document: dict[str, Any] = {"key": node.key}
    if node.value:
        document["value"] = node.value
    if node.limits:
        document["limits"] = [_rule_limit_to_document(limit) for limit in node.limits]
    if node.share_threshold:
        document["share_threshold"] = True
    if node.on_store_failure is not None:
        document["on_store_failure"] = node.on_store_failure.value
    if node.charge is not None:
        document["charge"] = node.charge.value
    if node.descriptors:
        document["descriptors"] = nodes_to_documents(node.descriptors)
    return document


def node_from_document(document: Document) -> RuleNode:
    """Return the node of a document.

    Raises InvalidArgument, KeyError, TypeError, AttributeError or ValueError when it is not a valid node.
    """
    on_store_failure, charge = document.get("on_store_failure"), document.get("charge")
    return RuleNode(
        key=document["key"],
        value=document.get("value", ""),
        limits=tuple(_rule_limit_from_document(limit) for limit in _items(document, "limits")),
        descriptors=nodes_from_documents(document.get("descriptors", [])),
        share_threshold=_flag(document, "share_threshold"),
        on_store_failure=None if on_store_failure is None else RuleOnStoreFailure(on_store_failure),
        charge=None if charge is None else RuleCharge(charge),
    )


def _rule_limit_to_document(limit: RuleLimit) -> dict[str, Any]:
    document: dict[str, Any] = {"name": limit.name} if limit.name else {}
    if limit.mode is not Mode.ENFORCE:
        document["mode"] = limit.mode.value
    if limit.replaces:
        document["replaces"] = list(limit.replaces)
    document |= _counting_to_document(limit)
    if isinstance(limit.algorithm, Unlimited):
        return document | {"unlimited": True}
    if isinstance(limit.algorithm, Blocked):
        return document | {"blocked": True}
    return document | algorithm_to_document(limit.algorithm)


def _rule_limit_from_document(document: Document) -> RuleLimit:
    algorithms = [name for name in _ALGORITHMS if name in document]
    if len(algorithms) != 1 or "concurrency" in document:
        raise ValueError(f"a limit has one of {', '.join(_ALGORITHMS)}, and no other")
    algorithm: Any
    if algorithms == ["unlimited"] and _flag(document, "unlimited"):
        algorithm = Unlimited()
    elif algorithms == ["blocked"] and _flag(document, "blocked"):
        algorithm = Blocked()
    else:
        algorithm = algorithm_from_document(document)
    return RuleLimit(
        algorithm,
        name=document.get("name", ""),
        mode=Mode(document.get("mode", Mode.ENFORCE.value)),
        replaces=tuple(_items(document, "replaces")),
        counts=_counts_from_document(document),
        overdraft=_overdraft_from_document(document),
    )


def _items(document: Document, name: str) -> Sequence[Any]:
    items = document.get(name, [])
    if not isinstance(items, list):
        raise TypeError(f"{name} must be a list, not {type(items).__name__}")
    return items


def _flag(document: Document, name: str) -> bool:
    flag = document.get(name, False)
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be true or false, not {type(flag).__name__}")
    return flag
