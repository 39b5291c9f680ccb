"""Which keys a list holds, on a real Postgres, and what of a pasted API key is searched for."""

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import DAY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.key import Key, KeyChanges, Standing
from ratelimit_service.management.key_filter import KeyFilter, public_part
from ratelimit_service.management.paging import Paging

MINUTE = 60 * SECOND


@pytest_asyncio.fixture
async def plane(control_plane: ControlPlane) -> ControlPlane:
    """Give the control plane the plan free."""
    await control_plane.plans.create("ada", plan_draft("free"))
    return control_plane


async def make(plane: ControlPlane, subject: str = "acme", **changes: object) -> Key:
    """Create a key with these fields of its draft."""
    return (await plane.keys.create("ada", key_draft(subject) | changes))[0]


async def found(plane: ControlPlane, filters: KeyFilter) -> list[str]:
    """The ids that a list has, read page by page, one key a page."""
    ids, token = [], ""
    while True:
        page = await plane.keys.list(Paging(1, token), filters)
        ids += [key.key_id for key in page.items]
        token = page.next_page_token
        if not token:
            return ids


async def test_keys_are_listed_by_their_state_now(plane: ControlPlane) -> None:
    """Each key is in the list of exactly one state: the one that it is in now, EXPIRED included."""
    active, never = await make(plane, expires_us=START + DAY), await make(plane)
    expired = await make(plane, expires_us=START + SECOND)
    suspended, revoked = await make(plane, expires_us=START + SECOND), await make(plane)
    await plane.keys.suspend("ada", suspended.key_id)
    await plane.keys.revoke("ada", revoked.key_id)
    plane.clock.us = START + SECOND

    lists = {standing: await found(plane, KeyFilter(standing=standing)) for standing in Standing}

    assert lists == {
        Standing.ACTIVE: [active.key_id, never.key_id],
        Standing.EXPIRED: [expired.key_id],
        Standing.SUSPENDED: [suspended.key_id],
        Standing.REVOKED: [revoked.key_id],
    }


@pytest.mark.parametrize(
    ("prefix", "subjects"),
    [
        ("acme", ["acme", "acme-2", "acme\U0010ffff\U0010ffff"]),
        ("acme-", ["acme-2"]),
        ("Acme", ["Acme"]),
        ("a%", ["a%b"]),
        ("a_", []),
        ("ä", ["äon"]),
        ("z", []),
    ],
)
async def test_a_subject_prefix_is_taken_byte_by_byte(
    plane: ControlPlane, database_url: str, prefix: str, subjects: list[str]
) -> None:
    """A prefix finds the subjects that begin with exactly its bytes: no case is folded, no wildcard expanded."""
    made = {}
    for subject in ("acme", "acme-2", "Acme", "a%b", "äon", "last", "other"):
        made[(await make(plane, subject)).key_id] = subject
    last = "acme\U0010ffff\U0010ffff"  # no name today, but stored from before
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE keys SET subject = %s WHERE subject = 'last'", [last])
    made = {key_id: last if subject == "last" else subject for key_id, subject in made.items()}

    assert [made[key_id] for key_id in await found(plane, KeyFilter(subject_prefix=prefix))] == subjects


async def test_all_labels_must_match(plane: ControlPlane) -> None:
    """A key is found by any of its labels and by several; another value, or one label that it lacks, excludes it."""
    both = await make(plane, labels={"team": "search", "tier": "1"})
    one = await make(plane, labels={"team": "search", "tier": ""})
    await make(plane, labels={"team": "ads"})
    await make(plane)

    assert await found(plane, KeyFilter(labels={"team": "search"})) == [both.key_id, one.key_id]
    assert await found(plane, KeyFilter(labels={"team": "search", "tier": "1"})) == [both.key_id]
    assert await found(plane, KeyFilter(labels={"tier": ""})) == [one.key_id]
    assert await found(plane, KeyFilter(labels={"tier": "2"})) == []


async def test_keys_are_listed_by_expiry(plane: ControlPlane) -> None:
    """Keys expire at or after the one bound and before the other; those that never expire are in neither list."""
    first, second = await make(plane, expires_us=START + DAY), await make(plane, expires_us=START + 2 * DAY)
    await make(plane)

    assert await found(plane, KeyFilter(expires_before_us=START + 2 * DAY)) == [first.key_id]
    assert await found(plane, KeyFilter(expires_after_us=START + DAY)) == [first.key_id, second.key_id]
    assert await found(plane, KeyFilter(expires_after_us=START + DAY + 1)) == [second.key_id]


async def test_keys_are_listed_by_last_use(plane: ControlPlane, database_url: str) -> None:
    """Keys have the last use that was counted, and are listed by it, with or without those that were never used."""
    old, new, unused = await make(plane), await make(plane), await make(plane)
    with psycopg.connect(database_url) as connection:
        for key, seconds in ((old, 60), (new, 120)):
            statement = "INSERT INTO key_last_used VALUES (%s, to_timestamp(%s))"
            connection.execute(statement, (key.key_id, seconds))

    assert [(await plane.keys.get(key.key_id)).last_used_us for key in (old, new, unused)] == [MINUTE, 2 * MINUTE, None]
    assert await found(plane, KeyFilter(used_before_us=2 * MINUTE)) == [old.key_id]
    assert await found(plane, KeyFilter(never_used=True)) == [unused.key_id]
    assert await found(plane, KeyFilter(used_before_us=2 * MINUTE, never_used=True)) == [old.key_id, unused.key_id]


async def test_a_key_is_found_by_its_public_part(plane: ControlPlane) -> None:
    """The id, its beginning, `rlk_<env>_<id>` and the whole key, also amid other text, find the key and no other."""
    await make(plane)
    key, api_key = await plane.keys.create("ada", key_draft())

    for text in (
        key.key_id,
        key.key_id[:10],
        f"rlk_live_{key.key_id}",
        f"rlk_live_{key.key_id[:12]}",
        str(api_key),
        f"  x-api-key: {api_key}\n",
    ):
        assert await found(plane, KeyFilter(key_id_prefix=public_part(text))) == [key.key_id]


@pytest.mark.parametrize(
    "text",
    [
        ApiKey("live", "0123456789abcdef", "s" * 27).secret + "secret",
        "rlk_live_",
        "rlk_live_" + "a" * 17,
        "x" * 513,
        "é",
    ],
)
def test_what_has_no_public_part_is_not_repeated(text: str) -> None:
    """A text without an id, such as the secret part of a key alone, is an error that does not repeat it."""
    with pytest.raises(InvalidArgument, match="search: has no key id") as caught:
        public_part(text)
    assert text[:20] not in str(caught.value)


def test_only_the_id_is_kept_of_a_pasted_key() -> None:
    """The secret part of a pasted key is in nothing that is made of it, and so in no page token or query."""
    api_key = ApiKey.generate("live")
    filters = KeyFilter(key_id_prefix=public_part(str(api_key)))
    assert filters.key_id_prefix == api_key.key_id
    assert api_key.secret not in repr(filters) + repr(filters.list_name)
    assert public_part("") == ""


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        (KeyFilter(subject=" acme"), "subject"),
        (KeyFilter(plan="No Plan"), "plan"),
        (KeyFilter(subject_prefix="a\0"), "subject_prefix"),
        (KeyFilter(subject_prefix="x" * 129), "subject_prefix"),
        (KeyFilter(labels={"Team": "x"}), "labels"),
        (KeyFilter(labels={"team": "x" * 65}), "labels[team]"),
        (KeyFilter(labels={str(n): "" for n in range(17)}), "labels"),
        (KeyFilter(key_id_prefix="%"), "search"),
    ],
)
async def test_a_filter_that_matches_nothing_is_refused(plane: ControlPlane, filters: KeyFilter, field: str) -> None:
    """A filter that no key can match is an error that names its field, not an empty list."""
    with pytest.raises(InvalidArgument) as caught:
        await plane.keys.list(Paging(), filters)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    "other",
    [
        KeyFilter(subject="acme", standing=Standing.ACTIVE),
        KeyFilter(subject="acme", subject_prefix="a"),
        KeyFilter(subject="acme", labels={"team": "x"}),
        KeyFilter(subject="acme", expires_before_us=1),
        KeyFilter(subject="acme", expires_after_us=1),
        KeyFilter(subject="acme", used_before_us=1),
        KeyFilter(subject="acme", never_used=True),
        KeyFilter(subject="acme", key_id_prefix="a"),
    ],
)
async def test_a_page_token_is_bound_to_every_filter(plane: ControlPlane, other: KeyFilter) -> None:
    """A page token of a list is refused for a list with any other filter, and the other way round."""
    for _ in range(2):
        await make(plane, labels={"team": "x"})
    token = (await plane.keys.list(Paging(1), KeyFilter(subject="acme"))).next_page_token

    with pytest.raises(InvalidArgument, match="page_token"):
        await plane.keys.list(Paging(1, token), other)


async def test_labels_are_changed_as_a_whole(plane: ControlPlane) -> None:
    """A change of the labels replaces them all; one of another field leaves them."""
    key = await make(plane, labels={"team": "search", "tier": "1"})

    moved = await plane.keys.update("ada", key.key_id, KeyChanges(description="new"))
    assert moved.labels == {"team": "search", "tier": "1"}
    changed = await plane.keys.update("ada", key.key_id, KeyChanges(labels={"tier": "2"}))
    assert (await plane.keys.get(key.key_id)).labels == changed.labels == {"tier": "2"}
    assert (await plane.keys.update("ada", key.key_id, KeyChanges(labels={}))).labels == {}


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"-a": "x"},
        {"A": "x"},
        {"a" * 64: "x"},
        {"a b": "x"},
        {"a": "x\ny"},
        {"a": "ä" * 33},
        {str(number): "" for number in range(17)},
    ],
)
async def test_labels_out_of_bounds_are_refused(plane: ControlPlane, labels: dict[str, str]) -> None:
    """A key is neither made with, nor changed to, labels that are out of bounds."""
    key = await make(plane)
    for action in (
        plane.keys.create("ada", key_draft() | {"labels": labels}),
        plane.keys.update("ada", key.key_id, KeyChanges(labels=labels)),
    ):
        with pytest.raises(InvalidArgument, match="labels"):
            await action


async def test_labels_at_their_bounds_are_kept(plane: ControlPlane) -> None:
    """Sixteen labels with the longest names and values, and one without a value, are stored as they are."""
    labels = {f"{n:02}" + "a" * 61: "ä" * 32 for n in range(15)} | {"0_.-": ""}
    key = await make(plane, labels=labels)
    assert (await plane.keys.get(key.key_id)).labels == labels


async def test_a_key_of_an_older_server_has_no_labels(plane: ControlPlane, database_url: str) -> None:
    """A row that a server of the version before has written is read, without labels, and can be given some."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time) "
            "SELECT '0123456789abcdef', 'acme', plan_id, 'active', '', 1, now(), now() FROM plans"
        )
    assert [key.labels for key in (await plane.keys.list(Paging())).items] == [{}]
    assert (await plane.bulk_keys.suspend("ada", ["0123456789abcdef"]))[0] == await plane.keys.get("0123456789abcdef")
