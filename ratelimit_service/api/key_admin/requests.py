"""Reading requests: every list of one is bounded before any of its items is read."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ratelimit_service.api.key_admin.field_count import check_fields
from ratelimit_service.api.messages import parse
from ratelimit_service.aside import SMALL, aside
from ratelimit_service.decision.descriptors.rules import MAX_NODE_LIMITS, MAX_NODES, MAX_REPLACED
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.bulk_keys import MAX_ITEMS
from ratelimit_service.management.overrides import MAX_OVERRIDES
from ratelimit_service.management.plans import MAX_LIMITS
from ratelimit_service.usage.query_request import MAX_VALUES, Dimension

_MAX_LABELS: Final = 1_000
"""More than a key has, which is an error of that key alone."""

_MAX_PATHS: Final = 100
"""More than any mask can name."""

_FILTER: Final = "ratelimit.v1.UsageFilter."
_KEYS: Final = "ratelimit.v1.ManageKeyRequest."

MAX_ITEMS_OF: Final[Mapping[str, int]] = {
    f"{_KEYS}CreateKey.labels": _MAX_LABELS,
    f"{_KEYS}ListKeys.labels": _MAX_LABELS,
    f"{_KEYS}BulkCreateKeys.keys": MAX_ITEMS,
    f"{_KEYS}BulkKeys.key_ids": MAX_ITEMS,
    "ratelimit.v1.Key.labels": _MAX_LABELS,
    "ratelimit.v1.Key.overrides": MAX_OVERRIDES,
    "ratelimit.v1.Plan.limits": MAX_LIMITS,
    "ratelimit.v1.SimulatePlanRequest.limits": MAX_LIMITS,
    "ratelimit.v1.DomainRules.descriptors": MAX_NODES,
    "ratelimit.v1.DescriptorRule.descriptors": MAX_NODES,
    "ratelimit.v1.DescriptorRule.limits": MAX_NODE_LIMITS,
    "ratelimit.v1.DescriptorLimit.replaces": MAX_REPLACED,
    "ratelimit.v1.QueryUsageRequest.group_by": len(Dimension),
    **{
        f"{_FILTER}{name}": MAX_VALUES
        for name in ("key_ids", "subjects", "plans", "resources", "limits", "domains", "rules")
    },
    "google.protobuf.FieldMask.paths": _MAX_PATHS,
}
"""Items of one list, by the field's full name. Every list that a request can have is here."""

MAX_TOGETHER: Final[Mapping[str, int]] = {"descriptors": MAX_NODES}
"""Items of all lists of this name in one request: those that are within each other."""

Request = TypeVar("Request", bound=Message)


def reader(request: type[Request]) -> Callable[[bytes], Awaitable[Request]]:
    """Reads requests of this type, a large one beside the event loop.

    It raises InvalidArgument for what is none, and for a list that is too long.
    """

    async def read(data: bytes) -> Request:
        if len(data) <= SMALL:
            return _read(request, data)
        await aside(check_fields, data, request)
        return await aside(_read, request, data)

    return read


def _read(kind: type[Request], data: bytes) -> Request:
    request = parse(data, kind)
    check_lists(request)
    return request


def check_lists(message: Message) -> None:
    """Raise InvalidArgument, with its path, for the first list in MESSAGE that is longer than any use has."""
    _check_lists(message, "", Counter())


def _check_lists(message: Message, path: str, together: "Counter[str]") -> None:
    """Check the lists below PATH. TOGETHER: their items so far, by name."""
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        if not field.is_repeated:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                _check_lists(value, f"{name}.", together)
            continue
        most = MAX_ITEMS_OF[field.full_name]
        if len(value) > most:
            raise InvalidArgument.of(name, f"has {len(value)} entries; at most {most:,} are allowed")
        together[field.name] += len(value)
        if together[field.name] > MAX_TOGETHER.get(field.name, together[field.name]):
            most = MAX_TOGETHER[field.name]
            raise InvalidArgument.of(name, f"has the entry that is more than {most:,} on all levels together")
        item_type = field.message_type
        if item_type is not None and not item_type.GetOptions().map_entry:
            for position, item in enumerate(value):
                _check_lists(item, f"{name}[{position}].", together)
