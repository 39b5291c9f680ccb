"""The lifecycle of keys, on a real Postgres."""

import asyncio
from dataclasses import replace

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import BURST, DAY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.keys import Key, KeyChanges, KeyFilter, Standing
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging


@pytest_asyncio.fixture
async def plane(control_plane: ControlPlane) -> ControlPlane:
    """Give the control plane the plans free and pro."""
    await control_plane.plans.create("ada", plan_draft("free"))
    await control_plane.plans.create("ada", plan_draft("pro"))
    return control_plane


async def test_a_new_key_is_active_and_can_be_read(plane: ControlPlane) -> None:
    """What create returns is what get reads, times to the microsecond."""
    key, _ = await plane.keys.create("ada", key_draft(expires_us=START + 1))

    assert await plane.keys.get(key.key_id) == key
    assert key.state is KeyState.ACTIVE
    assert (key.subject, key.plan, key.created_us, key.expires_us) == ("acme", "free", START, START + 1)


async def test_a_secret_is_stored_as_a_hash_only(plane: ControlPlane, database_url: str) -> None:
    """No row of any table holds the secret; the stored hash matches it and no other."""
    key, api_key = await plane.keys.create("ada", key_draft())
    _, other = await plane.keys.create("ada", key_draft())

    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [connection.execute(f'SELECT t::text FROM "{name}" t').fetchall() for (name,) in tables]
    assert api_key.key_id in str(rows)
    assert api_key.secret not in str(rows)
    assert api_key.secret.encode().hex() not in str(rows)
    assert plane.peppers.matches(api_key, key.secrets[0])
    assert not plane.peppers.matches(replace(other, key_id=key.key_id), key.secrets[0])


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (key_draft(subject=""), "subject"),
        (key_draft(subject="x" * 129), "subject"),
        (key_draft(subject="ä" * 65), "subject"),
        (key_draft(subject="a\nb"), "subject"),
        (key_draft(subject="a\0b"), "subject"),
        (key_draft(subject=" acme "), "subject"),
        (key_draft(subject="acme\u200b"), "subject"),
        (key_draft(plan=" free"), "plan"),
        (key_draft(plan=""), "plan"),
        (key_draft(plan="No Plan"), "plan"),
        (key_draft(expires_us=START), "expire_time"),
        (key_draft() | {"description": "x" * 257}, "description"),
        (key_draft() | {"description": "\0"}, "description"),
    ],
)
async def test_a_bad_draft_is_refused(plane: ControlPlane, draft: dict[str, object], field: str) -> None:
    """A key is not made from a field that is out of bounds; the error names that field."""
    with pytest.raises(InvalidArgument) as caught:
        await plane.keys.create("ada", draft)

    assert [violation.field for violation in caught.value.violations] == [field]
    assert (await plane.keys.list(Paging())).items == []


async def test_the_bounds_themselves_are_accepted(plane: ControlPlane) -> None:
    """A subject of 128 bytes and a description of 256 bytes are accepted as they are."""
    key, _ = await plane.keys.create("ada", key_draft(subject="ä" * 64) | {"description": "d" * 256})

    assert await plane.keys.get(key.key_id) == key


async def test_an_unknown_plan_is_named(plane: ControlPlane) -> None:
    """A key cannot be put on a plan that does not exist."""
    with pytest.raises(NotFound) as caught:
        await plane.keys.create("ada", key_draft(plan="gold"))

    assert (caught.value.reason, caught.value.metadata) == ("PLAN_NOT_FOUND", {"plan": "gold"})


async def test_an_unknown_key_is_named(plane: ControlPlane) -> None:
    """Every action on a key that does not exist raises KEY_NOT_FOUND with its id."""
    key_id = "0123456789abcdef"
    actions = [
        plane.keys.get(key_id),
        plane.keys.update("ada", key_id, KeyChanges(plan="pro")),
        plane.keys.rotate("ada", key_id),
        plane.keys.suspend("ada", key_id),
        plane.keys.resume("ada", key_id),
        plane.keys.revoke("ada", key_id),
    ]

    for action in actions:
        with pytest.raises(NotFound) as caught:
            await action
        assert (caught.value.reason, caught.value.metadata) == ("KEY_NOT_FOUND", {"key_id": key_id})


@pytest.mark.parametrize("key_id", ["", "short", "0123456789abcde\0", "x" * 17, "0123456789abcdé"])
async def test_what_cannot_be_an_id_is_refused(plane: ControlPlane, key_id: str) -> None:
    """A malformed id is an invalid argument, not an unknown key, and never reaches Postgres."""
    with pytest.raises(InvalidArgument, match="key_id"):
        await plane.keys.get(key_id)


async def test_keys_are_listed_in_the_order_of_their_creation(plane: ControlPlane) -> None:
    """Pages follow each other without a gap or a repetition, and the last has no token."""
    made = [(await plane.keys.create("ada", key_draft(subject=f"s{n % 2}")))[0].key_id for n in range(7)]

    seen, token, sizes = [], "", []
    while True:
        page = await plane.keys.list(Paging(3, token))
        seen += [key.key_id for key in page.items]
        sizes.append(len(page.items))
        token = page.next_page_token
        if not token:
            break

    assert seen == made
    assert sizes == [3, 3, 1]


async def test_a_list_is_narrowed_by_every_filter(plane: ControlPlane) -> None:
    """Subject and plan both narrow the list, alone and together."""
    made = {}
    for subject in ("a", "b"):
        for plan in ("free", "pro"):
            made[subject, plan] = (await plane.keys.create("ada", key_draft(subject, plan)))[0].key_id

    async def ids(**filters: str) -> set[str]:
        return {key.key_id for key in (await plane.keys.list(Paging(), KeyFilter(**filters))).items}

    assert await ids(subject="a") == {made["a", "free"], made["a", "pro"]}
    assert await ids(plan="pro") == {made["a", "pro"], made["b", "pro"]}
    assert await ids(subject="b", plan="free") == {made["b", "free"]}
    assert await ids(subject="c") == set()


async def test_a_filter_that_no_subject_matches_is_refused(plane: ControlPlane) -> None:
    """A list is not filtered by a subject with a blank at an end: it would be empty without a reason."""
    with pytest.raises(InvalidArgument, match=r"subject: ends with U\+0020 SPACE"):
        await plane.keys.list(Paging(), KeyFilter(subject="acme "))


async def test_a_description_is_stored_as_it_was_sent(plane: ControlPlane) -> None:
    """A description keeps its blanks and emoji, of any width and style, between its words."""
    key, _ = await plane.keys.create("ada", key_draft() | {"description": "for\u3000tests \u2764\ufe0f"})

    assert (await plane.keys.get(key.key_id)).description == "for\u3000tests \u2764\ufe0f"


async def test_a_page_token_is_valid_for_its_own_list_only(plane: ControlPlane) -> None:
    """A page token with other filters than it was made for is refused."""
    for _ in range(2):
        await plane.keys.create("ada", key_draft())
    token = (await plane.keys.list(Paging(1), KeyFilter(subject="acme"))).next_page_token

    assert len((await plane.keys.list(Paging(1, token), KeyFilter(subject="acme"))).items) == 1
    with pytest.raises(InvalidArgument, match="page_token"):
        await plane.keys.list(Paging(1, token), KeyFilter(subject="other"))


async def test_update_changes_what_is_named_only(plane: ControlPlane) -> None:
    """A change of one field leaves the others, moves the update time, and changes the etag."""
    key, _ = await plane.keys.create("ada", key_draft(expires_us=START + DAY))
    plane.clock.us += SECOND

    changed = await plane.keys.update("ada", key.key_id, KeyChanges(plan="pro"))

    assert changed == replace(key, plan="pro", updated_us=START + SECOND, revision=2)
    assert changed.etag != key.etag
    assert await plane.keys.get(key.key_id) == changed


async def test_an_expire_time_can_be_cleared(plane: ControlPlane) -> None:
    """Changing the expire time to none makes an expired key valid again."""
    key, _ = await plane.keys.create("ada", key_draft(expires_us=START + SECOND))
    plane.clock.us += SECOND
    assert (await plane.keys.get(key.key_id)).standing(plane.clock.us) is Standing.EXPIRED

    changed = await plane.keys.update("ada", key.key_id, KeyChanges(expires_us=None))

    assert changed.standing(plane.clock.us) is Standing.ACTIVE


async def test_an_old_etag_is_refused(plane: ControlPlane) -> None:
    """An update with an etag from before another change changes nothing; the error has both etags."""
    key, _ = await plane.keys.create("ada", key_draft())
    current = await plane.keys.update("ada", key.key_id, KeyChanges(description="new"), etag=key.etag)

    with pytest.raises(Aborted) as caught:
        await plane.keys.update("ada", key.key_id, KeyChanges(description="newer"), etag=key.etag)

    assert caught.value.metadata == {"etag": key.etag, "current_etag": current.etag}
    assert caught.value.subject == f"keys/{key.key_id}"
    assert await plane.keys.get(key.key_id) == current


@pytest.mark.usefixtures("warm")
async def test_of_two_updates_with_one_etag_one_wins(plane: ControlPlane) -> None:
    """However many updates carry the same etag at once, exactly one is made and the others are refused."""
    key, _ = await plane.keys.create("ada", key_draft())

    outcomes = await asyncio.gather(
        *(plane.keys.update("ada", key.key_id, KeyChanges(description=str(n)), etag=key.etag) for n in range(5)),
        return_exceptions=True,
    )

    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 4
    assert await plane.keys.get(key.key_id) == won[0]


async def test_a_rotated_key_has_both_secrets_during_the_overlap(plane: ControlPlane) -> None:
    """After a rotation with an overlap both secrets are there, the old one with its end; the id stays."""
    key, old = await plane.keys.create("ada", key_draft())
    plane.clock.us += SECOND

    rotated, new = await plane.keys.rotate("ada", key.key_id, overlap_us=DAY)

    end = START + SECOND + DAY
    assert new.key_id == old.key_id
    assert [secret.expires_us for secret in rotated.secrets] == [None, end]
    assert plane.peppers.matches(new, rotated.secrets[0])
    assert plane.peppers.matches(old, rotated.secrets[1])
    assert await plane.keys.get(key.key_id) == rotated
    assert rotated.previous_secret_expires_us(end - 1) == end
    assert rotated.previous_secret_expires_us(end) is None


async def test_a_rotation_without_overlap_ends_the_old_secret(plane: ControlPlane) -> None:
    """An overlap of zero leaves the new secret alone."""
    key, _ = await plane.keys.create("ada", key_draft())

    rotated, new = await plane.keys.rotate("ada", key.key_id)

    assert len(rotated.secrets) == 1
    assert plane.peppers.matches(new, rotated.secrets[0])


@pytest.mark.usefixtures("warm")
async def test_two_rotations_at_once_leave_three_secrets(plane: ControlPlane) -> None:
    """Rotations at the same time happen one after the other: both new secrets are valid, and the first one is."""
    key, first = await plane.keys.create("ada", key_draft())

    (_, one), (_, two) = await asyncio.gather(
        plane.keys.rotate("ada", key.key_id, overlap_us=DAY), plane.keys.rotate("ada", key.key_id, overlap_us=DAY)
    )

    stored = (await plane.keys.get(key.key_id)).secrets
    valid = [[plane.peppers.matches(api_key, secret) for secret in stored] for api_key in (one, two)]
    assert [sum(matching) for matching in valid] == [1, 1]
    assert sum(plane.peppers.matches(first, secret) for secret in stored) == 1


async def test_each_earlier_secret_keeps_its_own_end(plane: ControlPlane) -> None:
    """A later rotation changes no end of an earlier secret, at most four of them are valid, and 0 ends them all."""
    key, first = await plane.keys.create("ada", key_draft())
    made = [first]
    for days in (9, 1, 5, 7, 3):
        _, api_key = await plane.keys.rotate("ada", key.key_id, overlap_us=days * DAY)
        made.append(api_key)

    async def ends() -> list[int | None]:
        """For each secret in days when it ends; 0: it has ended or the key has none such."""
        stored = (await plane.keys.get(key.key_id)).secrets
        found = [[each.expires_us for each in stored if plane.peppers.matches(one, each)] for one in made]
        return [0 if not each else each[0] and (each[0] - START) // DAY for each in found]

    assert await ends() == [9, 0, 5, 7, 3, None], "of five earlier ones the one that ends first has ended"
    plane.clock.us += 4 * DAY
    _, api_key = await plane.keys.rotate("ada", key.key_id, overlap_us=2 * DAY)
    made.append(api_key)
    assert await ends() == [9, 0, 5, 7, 0, 6, None], "one has ended by itself"
    _, api_key = await plane.keys.rotate("ada", key.key_id)
    made.append(api_key)
    assert await ends() == [0, 0, 0, 0, 0, 0, 0, None]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE plan_versions SET limits = '[]'",
        "UPDATE plan_versions SET limits = '{\"a\": 1}'",
        "DELETE FROM plan_versions",
        "UPDATE keys SET expire_time = 'infinity', labels = '[7]', update_time = '-infinity'",
        "UPDATE keys SET expire_time = '294000-01-01', create_time = '0044-03-15 BC'",
        "UPDATE overrides SET limit_document = '{}', expire_time = 'infinity'",
        "UPDATE key_secrets SET digest = '', expire_time = 'infinity', pepper_version = -1, environment = 'A B'",
    ],
)
async def test_a_key_can_be_revoked_whatever_else_cannot_be_read(
    plane: ControlPlane, database_url: str, damage: str
) -> None:
    """What changes a key's state or secret decodes nothing else, and changes nothing else."""
    key, _ = await plane.keys.create("ada", key_draft())
    await plane.overrides.set("ada", OverrideTarget(Level.KEY, key.key_id), Override(BURST))
    with psycopg.connect(database_url) as connection:
        connection.execute(damage.encode())
        before = connection.execute("SELECT expire_time::text, labels, plan_id FROM keys").fetchall()

    assert (await plane.keys.suspend("ada", key.key_id)).state is KeyState.SUSPENDED
    assert (await plane.keys.resume("ada", key.key_id)).state is KeyState.ACTIVE
    _, api_key = await plane.keys.rotate("ada", key.key_id, overlap_us=DAY)
    await plane.keys.update("ada", key.key_id, KeyChanges(description="found"))
    (found,) = (await plane.keys.list(Paging())).items
    assert (found.key_id, found.description) == (key.key_id, "found")
    assert plane.peppers.matches(api_key, found.secrets[0])
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT expire_time::text, labels, plan_id FROM keys").fetchall() == before
    ended = await plane.keys.update("ada", key.key_id, KeyChanges(expires_us=START + DAY))
    assert ended.standing(START + DAY) is Standing.EXPIRED
    assert (await plane.keys.revoke("ada", key.key_id)).state is KeyState.REVOKED
    (bulk,) = await plane.bulk_keys.revoke("ada", [key.key_id])
    assert isinstance(bulk, Key)
    assert bulk.state is KeyState.REVOKED


@pytest.mark.parametrize("overlap_us", [-1, 30 * DAY + 1])
async def test_an_overlap_out_of_bounds_is_refused(plane: ControlPlane, overlap_us: int) -> None:
    """An overlap is 0 to 30 days."""
    key, _ = await plane.keys.create("ada", key_draft())

    with pytest.raises(InvalidArgument, match="overlap"):
        await plane.keys.rotate("ada", key.key_id, overlap_us=overlap_us)


async def test_the_longest_overlap_is_accepted(plane: ControlPlane) -> None:
    """An overlap of exactly 30 days is accepted."""
    key, _ = await plane.keys.create("ada", key_draft())

    rotated, _ = await plane.keys.rotate("ada", key.key_id, overlap_us=30 * DAY)

    assert rotated.secrets[1].expires_us == START + 30 * DAY


async def test_a_key_is_suspended_and_resumed(plane: ControlPlane) -> None:
    """A suspended key is refused until it is resumed, and may be changed meanwhile."""
    key, _ = await plane.keys.create("ada", key_draft())

    assert (await plane.keys.suspend("ada", key.key_id)).state is KeyState.SUSPENDED
    assert (await plane.keys.update("ada", key.key_id, KeyChanges(plan="pro"))).state is KeyState.SUSPENDED
    assert (await plane.keys.resume("ada", key.key_id)).state is KeyState.ACTIVE


async def test_the_standing_is_the_first_that_holds(plane: ControlPlane) -> None:
    """A key that has expired too is shown as SUSPENDED while it is, and as REVOKED from then on."""
    key, _ = await plane.keys.create("ada", key_draft(expires_us=START + 1))
    suspended = await plane.keys.suspend("ada", key.key_id)
    revoked = await plane.keys.revoke("ada", key.key_id)

    for now_us, standings in (
        (START, [Standing.ACTIVE, Standing.SUSPENDED, Standing.REVOKED]),
        (START + 1, [Standing.EXPIRED, Standing.SUSPENDED, Standing.REVOKED]),
    ):
        assert [one.standing(now_us) for one in (key, suspended, revoked)] == standings


async def test_a_state_that_does_not_allow_an_action_is_named(plane: ControlPlane) -> None:
    """Resuming an active key and suspending a suspended one are conflicts that name key, state and action."""
    key, _ = await plane.keys.create("ada", key_draft())

    with pytest.raises(FailedPrecondition) as caught:
        await plane.keys.resume("ada", key.key_id)
    assert caught.value.reason == "KEY_STATE_CONFLICT"
    assert caught.value.metadata == {"key_id": key.key_id, "state": "ACTIVE", "action": "resume"}

    await plane.keys.suspend("ada", key.key_id)
    with pytest.raises(FailedPrecondition) as caught:
        await plane.keys.suspend("ada", key.key_id)
    assert caught.value.metadata == {"key_id": key.key_id, "state": "SUSPENDED", "action": "suspend"}


async def test_a_revoked_key_stays_revoked(plane: ControlPlane) -> None:
    """Revoking again succeeds and changes nothing; every other action is a conflict."""
    key, _ = await plane.keys.create("ada", key_draft())
    revoked = await plane.keys.revoke("ada", key.key_id)

    assert await plane.keys.revoke("bob", key.key_id) == revoked
    for action in (
        plane.keys.update("ada", key.key_id, KeyChanges(plan="pro")),
        plane.keys.rotate("ada", key.key_id),
        plane.keys.suspend("ada", key.key_id),
        plane.keys.resume("ada", key.key_id),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await action
        assert caught.value.metadata["state"] == "REVOKED"
    assert await plane.keys.get(key.key_id) == revoked


async def test_every_change_is_recorded_once(plane: ControlPlane) -> None:
    """Each change of a key has one audit event, in order, with its actor; reads and repeated revocations have none."""
    key, _ = await plane.keys.create("ada", key_draft())
    await plane.keys.update("bob", key.key_id, KeyChanges(plan="pro", description="x", expires_us=START + DAY))
    await plane.keys.rotate("ada", key.key_id, overlap_us=SECOND)
    await plane.keys.suspend("ada", key.key_id)
    await plane.keys.resume("ada", key.key_id)
    await plane.keys.revoke("ada", key.key_id)
    await plane.keys.revoke("ada", key.key_id)
    await plane.keys.get(key.key_id)

    page = await plane.audit.list(Paging(), AuditFilter(target=key.target))
    events = [recorded.event for recorded in page.items][::-1]

    assert [(event.actor, event.action) for event in events] == [
        ("ada", "key.create"),
        ("bob", "key.update"),
        ("ada", "key.rotate"),
        ("ada", "key.suspend"),
        ("ada", "key.resume"),
        ("ada", "key.revoke"),
    ]
    assert events[1].detail == {"plan": "pro", "description": "x", "expire_time": "2026-11-25T06:00:00.123456Z"}


async def test_no_secret_is_recorded(plane: ControlPlane) -> None:
    """Neither the audit event of a creation nor that of a rotation holds a secret."""
    key, old = await plane.keys.create("ada", key_draft())
    _, new = await plane.keys.rotate("ada", key.key_id, overlap_us=SECOND)

    recorded = str((await plane.audit.list(Paging(), AuditFilter(target=key.target))).items)

    assert old.secret not in recorded
    assert new.secret not in recorded


async def test_a_key_of_a_chosen_id_has_no_secret_until_it_is_rotated(plane: ControlPlane) -> None:
    """Configuration chooses the id, and no API key is valid before the rotation, which makes the first secret."""
    draft = key_draft() | {"key_id": "Chosen0000000001", "without_secret": True}
    key, secret = await plane.keys.create("ada", draft)
    assert (key.key_id, key.secrets, secret) == ("Chosen0000000001", (), None)
    assert await plane.keys.get("Chosen0000000001") == key
    assert (await plane.audit.list(Paging())).items[0].event.detail["without_secret"] is True
    rotated, api_key = await plane.keys.rotate("ada", "Chosen0000000001", overlap_us=SECOND)
    assert api_key.key_id == "Chosen0000000001"
    assert [plane.peppers.matches(api_key, each) for each in rotated.secrets] == [True]


async def test_no_id_is_used_twice(plane: ControlPlane) -> None:
    """A new key cannot have the id of another, not even of a revoked one; an id of another form is refused."""
    draft = key_draft() | {"key_id": "Chosen0000000001"}
    await plane.keys.create("ada", draft)
    for _ in range(2):
        with pytest.raises(AlreadyExists) as taken:
            await plane.keys.create("ada", draft)
        assert (taken.value.reason, taken.value.metadata) == ("KEY_EXISTS", {"key_id": "Chosen0000000001"})
        await plane.keys.revoke("ada", "Chosen0000000001")
    with pytest.raises(InvalidArgument) as wrong:
        await plane.keys.create("ada", key_draft() | {"key_id": "short"})
    assert [violation.field for violation in wrong.value.violations] == ["key_id"]

    results = await plane.bulk_keys.create(
        "ada",
        [
            draft,
            draft | {"key_id": "Chosen0000000002"},
            draft | {"key_id": "Chosen0000000002"},
            draft | {"key_id": "a\0b"},
            key_draft() | {"key_id": "Chosen0000000003", "without_secret": True},
        ],
    )
    assert [getattr(result, "reason", "made") for result in results] == [
        "KEY_EXISTS",
        "made",
        "KEY_EXISTS",
        "INVALID_FIELD",
        "made",
    ]
    assert results[4][1] is None


async def test_a_rehearsal_changes_nothing(plane: ControlPlane) -> None:
    """What is rehearsed is checked as the change itself is, and leaves no row, no event and no announced change."""
    key, _ = await plane.keys.create("ada", key_draft())
    events = await plane.audit.list(Paging())
    rehearsal = plane.keys.rehearsal()
    made, _ = await rehearsal.create("ada", key_draft() | {"key_id": "Chosen0000000001"})
    assert made.key_id == "Chosen0000000001"
    assert (await rehearsal.revoke("ada", key.key_id)).state is KeyState.REVOKED
    assert (await rehearsal.rotate("ada", key.key_id))[0].secrets != key.secrets
    with pytest.raises(NotFound):
        await rehearsal.create("ada", key_draft(plan="none"))
    with pytest.raises(NotFound):
        await rehearsal.get("Chosen0000000001")
    assert await plane.keys.get(key.key_id) == key
    assert await plane.audit.list(Paging()) == events
