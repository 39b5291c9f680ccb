"""The audit log, on a real Postgres."""

import asyncio

import pytest

from fixtures.control_plane import ControlPlane, key_draft, plan_draft
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.paging import Paging


async def test_events_are_listed_newest_first(control_plane: ControlPlane) -> None:
    """Pages go from the newest event to the oldest, without a gap or a repetition, while others are written."""
    for n in range(5):
        await control_plane.plans.create("ada", plan_draft(f"p{n}"))

    first = await control_plane.audit.list(Paging(2))
    await control_plane.plans.create("ada", plan_draft("later"))
    second = await control_plane.audit.list(Paging(2, first.next_page_token))
    third = await control_plane.audit.list(Paging(2, second.next_page_token))

    seen = [*first.items, *second.items, *third.items]
    assert [recorded.event.target for recorded in seen] == [f"plans/p{n}" for n in (4, 3, 2, 1, 0)]
    assert third.next_page_token == ""


@pytest.mark.usefixtures("warm")
async def test_events_count_up_in_the_order_of_the_changes(control_plane: ControlPlane) -> None:
    """Changes at the same time have event ids in the order of the keys' creation."""
    await control_plane.plans.create("ada", plan_draft())
    await asyncio.gather(*(control_plane.keys.create("ada", key_draft()) for _ in range(5)))

    created = [key.target for key in (await control_plane.keys.list(Paging())).items]
    events = (await control_plane.audit.list(Paging())).items

    assert [recorded.event.target for recorded in events][::-1] == ["plans/free", *created]


@pytest.mark.parametrize(
    ("paging", "target", "field"),
    [
        (Paging(-1), "", "page_size"),
        (Paging(1001), "", "page_size"),
        (Paging(0, "nonsense"), "", "page_token"),
        (Paging(0, "é"), "", "page_token"),
        (Paging(), "keys/\0", "target"),
        (Paging(), "x" * 273, "target"),
    ],
)
async def test_a_bad_request_is_refused(control_plane: ControlPlane, paging: Paging, target: str, field: str) -> None:
    """A page or target that cannot be is refused; the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.audit.list(paging, AuditFilter(target=target))

    assert [violation.field for violation in caught.value.violations] == [field]
