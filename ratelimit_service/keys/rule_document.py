"""Rule trees as plain documents, for storage: dicts, lists, strings, whole numbers and booleans only.

What is left out has its default, so that documents stay as short as the rules are.
"""

from collections.abc import Iterable
from typing import Any

from ratelimit_service.decision.domain_rules import Blocked, RuleFailure, RuleLimit, RuleNode, Unlimited
from ratelimit_service.decision.limit import Mode
from ratelimit_service.keys.limit_document import Document, algorithm_from_document, algorithm_to_document


def to_documents(nodes: Iterable[RuleNode]) -> list[dict[str, Any]]:
    """Return the documents of a level and all below it."""
    return [to_document(node) for node in nodes]


def from_documents(documents: object) -> tuple[RuleNode, ...]:
    """Return the level of a list of documents. Raises like `from_document`."""
    if not isinstance(documents, list):
        raise TypeError(f"a level of rules is a list, not {type(documents).__name__}")
    return tuple(from_document(document) for document in documents)


def to_document(node: RuleNode) -> dict[str, Any]:
    """Return the document of a node and all below it."""
    document: dict[str, Any] = {"key": node.key}
    if node.value:
        document["value"] = node.value
    if node.limits:
        document["limits"] = [_from_limit(limit) for limit in node.limits]
    if node.share_threshold:
        document["share_threshold"] = True
    if node.on_store_failure is not None:
        document["on_store_failure"] = node.on_store_failure.value
    if node.descriptors:
        document["descriptors"] = to_documents(node.descriptors)
    return document


def from_document(document: Document) -> RuleNode:
    """Return the node of a document.

    Raises InvalidArgument, KeyError, TypeError, AttributeError or ValueError when it makes no valid node.
    """
    on_store_failure = document.get("on_store_failure")
    return RuleNode(
        key=document["key"],
        value=document.get("value", ""),
        limits=tuple(_to_limit(limit) for limit in document.get("limits", ())),
        descriptors=from_documents(document.get("descriptors", [])),
        share_threshold=bool(document.get("share_threshold", False)),
        on_store_failure=None if on_store_failure is None else RuleFailure(on_store_failure),
    )


def _from_limit(limit: RuleLimit) -> dict[str, Any]:
    document: dict[str, Any] = {"name": limit.name} if limit.name else {}
    if limit.mode is not Mode.ENFORCE:
        document["mode"] = limit.mode.value
    if limit.replaces:
        document["replaces"] = list(limit.replaces)
    if isinstance(limit.algorithm, Unlimited):
        return document | {"unlimited": True}
    if isinstance(limit.algorithm, Blocked):
        return document | {"blocked": True}
    return document | algorithm_to_document(limit.algorithm)


def _to_limit(document: Document) -> RuleLimit:
    if "unlimited" in document:
        algorithm: Any = Unlimited()
    elif "blocked" in document:
        algorithm = Blocked()
    else:
        algorithm = algorithm_from_document(document)
    return RuleLimit(
        algorithm,
        name=document.get("name", ""),
        mode=Mode(document.get("mode", Mode.ENFORCE.value)),
        replaces=tuple(document.get("replaces", ())),
    )
