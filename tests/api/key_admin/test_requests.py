"""Lists of requests: each has a bound, which is checked before any item is read."""

from collections.abc import Iterator
from time import perf_counter

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1 import alerts_pb2, enforcement_pb2, simulation_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as pb
from ratelimit_service.api.key_admin import requests
from ratelimit_service.api.key_admin.field_count import MAX_FIELDS
from ratelimit_service.api.key_admin.requests import MAX_ITEMS_OF, reader
from ratelimit_service.api.messages import MAX_ADMIN_MESSAGE
from ratelimit_service.errors import InvalidArgument

REQUESTS: list[type[Message]] = [
    pb.ManageKeyRequest,
    pb.ManagePlanRequest,
    pb.ManageOverrideRequest,
    pb.ManageRulesRequest,
    pb.ExplainLimitRequest,
    pb.ListAuditEventsRequest,
    pb.QueryUsageRequest,
    simulation_pb2.SimulatePlanRequest,
    alerts_pb2.ListAlertsRequest,
    alerts_pb2.TestAlertRequest,
    enforcement_pb2.ManageEnforcementRequest,
]
SECONDS = 2.0


def lists_of(message: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """All lists that a message can have, also within other messages."""
    seen.add(message.full_name)
    for field in message.fields:
        if field.is_repeated:
            yield field
        below = field.message_type
        if below is not None and not below.GetOptions().map_entry and below.full_name not in seen:
            yield from lists_of(below, seen)


def test_every_list_has_a_bound() -> None:
    """Whatever list a request of KeyAdminService can have, it has a bound; and there is none for any other."""
    names = [request.DESCRIPTOR.full_name for request in REQUESTS]
    assert names == [
        method.input_type.full_name for method in pb.DESCRIPTOR.services_by_name["KeyAdminService"].methods
    ]
    found = {field.full_name for request in REQUESTS for field in lists_of(request.DESCRIPTOR, set())}
    assert found == set(MAX_ITEMS_OF)


def full(field: bytes, *above: bytes, size: int = 2 * (MAX_FIELDS - 5)) -> bytes:
    """As many empty items of a list as fit into SIZE bytes, within the messages whose fields are ABOVE."""
    data = field * (size // len(field))
    for tag in above:
        size = len(data)
        length = b""
        while size >= 128:
            length += bytes([size % 128 + 128])
            size //= 128
        data = tag + length + bytes([size]) + data
    return data


LARGE: dict[str, tuple[type[Message], bytes, str]] = {
    "limits to simulate": (simulation_pb2.SimulatePlanRequest, full(b"\x12\x00"), "limits"),
    "limits of a plan": (pb.ManagePlanRequest, full(b"\x1a\x00", b"\x0a", b"\x0a"), "create.plan.limits"),
    "keys": (pb.ManageKeyRequest, full(b"\x0a\x00", b"\x4a"), "bulk_create.keys"),
    "ids of keys": (pb.ManageKeyRequest, full(b"\x0a\x00", b"\x52"), "bulk_suspend.key_ids"),
    "descriptors": (pb.ManageRulesRequest, full(b"\x1a\x00", b"\x0a", b"\x0a"), "replace.rules.descriptors"),
    "groups": (pb.QueryUsageRequest, full(b"\x28\x01"), "group_by"),
    "values": (pb.QueryUsageRequest, full(b"\x12\x00", b"\x0a"), "filter.subjects"),
    "masks": (pb.ManageKeyRequest, full(b"\x0a\x00", b"\x12", b"\x22"), "update.update_mask.paths"),
}


@pytest.mark.parametrize("name", LARGE)
async def test_a_list_is_not_read_beyond_its_bound(name: str) -> None:
    """A message full of empty items is refused at once, with the path of the list."""
    request, data, path = LARGE[name]
    began = perf_counter()
    with pytest.raises(InvalidArgument) as caught:
        await reader(request)(data)
    assert perf_counter() - began < SECONDS
    assert [violation.field for violation in caught.value.violations] == [path]


@pytest.mark.parametrize("name", LARGE)
async def test_a_message_of_too_many_fields_is_not_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is as long as an admin's may be, and full of empty items, is refused before the library reads it."""
    request, data, _ = LARGE[name]
    monkeypatch.setattr(requests, "parse", None)
    for more in (data[-2:] * 10, b"\xff" * 20):  # the second is malformed
        with pytest.raises(InvalidArgument, match="100,000 fields"):
            await reader(request)(data + data[-2:] * MAX_FIELDS + more)
    nested = full(b"\x1a\x00", b"\x0a", b"\x0a", size=MAX_ADMIN_MESSAGE - 20)
    with pytest.raises(InvalidArgument, match="100,000 fields"):
        await reader(pb.ManagePlanRequest)(nested + b"\xff" * 20)
    unknown = b"\x83\x7d" + b"\x80\x7d\x01" * (MAX_ADMIN_MESSAGE // 3)
    with pytest.raises(InvalidArgument, match="100,000 fields"):
        await reader(request)(unknown)


async def test_the_largest_messages_of_use_are_read() -> None:
    """A thousand keys with all the labels that a key may have are one message."""
    labels = {f"label{number}": "value" * 6 for number in range(16)}
    keys = [{"subject": "s" * 128, "plan": "p", "description": "d" * 128, "labels": labels} for _ in range(1_000)]
    request = pb.ManageKeyRequest(bulk_create={"keys": keys})
    assert await reader(pb.ManageKeyRequest)(request.SerializeToString()) == request


@pytest.mark.parametrize("data", [b"\xff" * 20_000, b"\x0a\xff" + b"a" * 20_000, b"\x0f" + b"\0" * 20_000])
async def test_what_is_no_message_is_an_error_of_the_library(data: bytes) -> None:
    """Counting the fields of what is malformed ends, and the error is that of the library."""
    with pytest.raises(InvalidArgument, match="are no ratelimit"):
        await reader(pb.ManageKeyRequest)(data)


async def test_descriptors_are_counted_on_all_levels() -> None:
    """No more nodes are read than a domain may have, wherever they are."""
    rules = pb.ManageRulesRequest(replace={"rules": {"domain": "d"}})
    for _ in range(40):
        rules.replace.rules.descriptors.add(descriptors=[{"key": str(number)} for number in range(25)])
    with pytest.raises(InvalidArgument) as caught:
        await reader(pb.ManageRulesRequest)(rules.SerializeToString())
    assert caught.value.violations[0].field == "replace.rules.descriptors[38].descriptors"
