"""Managing rules on a real Postgres: versions, etags, the audit log, and what the decision plane reads."""

import asyncio

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError

from decision.descriptors.world import BLOCKED, DENY, LOCAL, SHADOW, UNLIMITED, bucket, node, quota
from fixtures.control_plane import SECOND, ControlPlane
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode, RuleOnStoreFailure
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.errors import Aborted, InvalidArgument, NotFound, Unavailable
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.documents import nodes_from_documents, nodes_to_documents
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.rules import MAX_DOMAINS, MAX_TOTAL_BYTES
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.rules_source import PostgresRulesSource
from ratelimit_service.postgres.unit_of_work import PostgresTransactions

TREE = (
    node(
        "path",
        "/a*",
        bucket(5, 2, name="burst", mode=SHADOW),
        quota(9, name="daily", replaces=("x", "y")),
        share_threshold=True,
        on_store_failure=DENY,
        below=(node("method", "GET", UNLIMITED), node("method", "", BLOCKED)),
    ),
    node("path"),
)


def rules(amount: int = 1, domain: str = "shop") -> DomainRules:
    """Rules with one quota."""
    return DomainRules(domain, (node("a", "", quota(amount)),))


def test_documents_keep_everything() -> None:
    """What is stored of a tree is the tree."""
    assert nodes_from_documents(nodes_to_documents(TREE)) == TREE


async def test_replace_makes_versions(control_plane: ControlPlane) -> None:
    """Each replacement is a new version with its own etag; older ones can still be read."""
    first = await control_plane.rules.replace("ann", DomainRules("shop", TREE, LOCAL), description="first")
    control_plane.clock.us += SECOND
    second = await control_plane.rules.replace("ann", rules(), etag=first.etag)
    assert (first.version, second.version) == (1, 2)
    assert first.created_us == second.created_us == second.updated_us - SECOND
    assert first.etag != second.etag
    assert await control_plane.rules.get("shop") == second
    assert await control_plane.rules.get("shop", version=1) == first
    assert first.rules.descriptors == TREE


async def test_check_changes_nothing(control_plane: ControlPlane) -> None:
    """A check returns what would be in force, refuses what would be refused, and leaves everything as it is."""
    first = await control_plane.rules.replace("ann", rules(1))
    would_be = await control_plane.rules.check(rules(2), etag=first.etag)
    assert (would_be.version, would_be.rules) == (2, rules(2))
    assert await control_plane.rules.get("shop") == first
    with pytest.raises(Aborted):
        await control_plane.rules.check(rules(2), etag="other")
    assert (await control_plane.rules.check(rules(2, "new"))).version == 1
    with pytest.raises(NotFound):
        await control_plane.rules.get("new")


async def test_an_old_etag_is_refused(control_plane: ControlPlane) -> None:
    """Of two replacements with one etag exactly one wins, and an etag for a domain without rules is refused."""
    first = await control_plane.rules.replace("ann", rules(1))
    outcomes = await asyncio.gather(
        *(control_plane.rules.replace("ann", rules(n), etag=first.etag) for n in (2, 3)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Aborted", "RuleSet"]
    assert (await control_plane.rules.get("shop")).version == 2
    with pytest.raises(Aborted) as caught:
        await control_plane.rules.replace("ann", rules(1, "new"), etag=first.etag)
    assert caught.value.subject == "domains/new"
    with pytest.raises(Aborted):
        await control_plane.rules.delete("ann", "shop", etag=first.etag)


async def test_delete_and_make_again(control_plane: ControlPlane) -> None:
    """A deleted domain has no rules, and may be made again from version 1, with another etag."""
    first = await control_plane.rules.replace("ann", rules(1))
    assert await control_plane.rules.delete("ann", "shop", etag=first.etag) == first
    for read in (control_plane.rules.get("shop"), control_plane.rules.delete("ann", "shop")):
        with pytest.raises(NotFound) as caught:
            await read
        assert (caught.value.reason, caught.value.metadata) == ("RULES_NOT_FOUND", {"domain": "shop"})
    control_plane.clock.us += SECOND
    again = await control_plane.rules.replace("ann", rules(1))
    assert again.version == 1
    assert again.etag != first.etag
    with pytest.raises(NotFound, match="version 2"):
        await control_plane.rules.get("shop", version=2)


async def test_list_in_pages(control_plane: ControlPlane) -> None:
    """Domains are listed in the order of their names, in pages, those in force only."""
    for domain in ("b", "a", "c", "gone"):
        await control_plane.rules.replace("ann", rules(1, domain))
    await control_plane.rules.replace("ann", rules(2, "b"))
    await control_plane.rules.delete("ann", "gone")
    first = await control_plane.rules.list(Paging(2))
    rest = await control_plane.rules.list(Paging(2, first.next_page_token))
    assert [one.domain for one in (*first.items, *rest.items)] == ["a", "b", "c"]
    assert first.items[1].version == 2
    assert rest.next_page_token == ""
    with pytest.raises(InvalidArgument):
        await control_plane.rules.list(Paging(2, "nonsense"))


async def test_audit(control_plane: ControlPlane) -> None:
    """Each change leaves an event with its actor, action and version."""
    await control_plane.rules.replace("ann", DomainRules("shop", TREE, LOCAL), description="first")
    await control_plane.rules.delete("ben", "shop")
    page = await control_plane.audit.list(Paging(), AuditFilter(target="domains/shop"))
    events = [(one.event.actor, one.event.action, one.event.detail) for one in page.items]
    assert events == [
        ("ben", "rules.delete", {}),
        (
            "ann",
            "rules.replace",
            {
                "version": 1,
                "descriptors": 4,
                "on_store_failure": "LOCAL",
                "charge": "IF_ALLOWED",
                "hold_us": None,
                "description": "first",
            },
        ),
    ]
    longest = "d" * 256
    await control_plane.rules.replace("ann", rules(1, longest))
    assert len((await control_plane.audit.list(Paging(), AuditFilter(target=f"domains/{longest}"))).items) == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"domain": ""}, "domain"), ({"domain": "a\nb"}, "domain"), ({"domain": "a", "version": -1}, "version")],
)
async def test_bad_arguments(control_plane: ControlPlane, arguments: dict[str, object], field: str) -> None:
    """An argument that is out of bounds is refused; the error names it."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.rules.get(**arguments)
    assert caught.value.violations[0].field == field
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.rules.replace("ann", rules(), description="x" * 257)
    assert caught.value.violations[0].field == "description"


@pytest.mark.parametrize(
    ("names", "field"),
    [
        (DomainRules(" shop"), "domain"),
        (DomainRules("shop\u00a0"), "domain"),
        (DomainRules("shop", (node("a"), node("b "))), "descriptors[1].key"),
        (DomainRules("shop", (node("a", "\u200bx"),)), "descriptors[0].value"),
        (DomainRules("shop", (node("a", "* "),)), "descriptors[0].value"),
        (DomainRules("shop", (node("a", below=(node("b", "x "),)),)), "descriptors[0].descriptors[0].value"),
        (DomainRules("shop", (node("a", "", quota(1, name="day ")),)), "descriptors[0].limits[0].name"),
        (
            DomainRules("shop", (node("a", "", quota(1, name="day", replaces=("x", " y"))),)),
            "descriptors[0].limits[0].replaces[1]",
        ),
    ],
)
async def test_names_with_blanks_are_refused(control_plane: ControlPlane, names: DomainRules, field: str) -> None:
    """Rules whose names have blanks at an end would match nothing; the error has the path of the field."""
    for refused in (control_plane.rules.check(names), control_plane.rules.replace("ann", names)):
        with pytest.raises(InvalidArgument) as caught:
            await refused
        assert [violation.field for violation in caught.value.violations] == [field]
    assert (await control_plane.rules.list(Paging())).items == []


async def test_rules_with_blanks_that_are_stored_can_be_deleted(control_plane: ControlPlane, database_url: str) -> None:
    """Rules from before names were checked stay readable, in force, and can be deleted."""
    await control_plane.rules.replace("ann", rules())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE rule_domains SET domain = ' shop '")
        connection.execute("""UPDATE rule_versions SET descriptors = '[{"key": "a "}]', limit_count = 0""")
    stored = DomainRules(" shop ", (node("a "),))

    fetched = await PostgresRulesSource(control_plane.database).fetch_all_rules()

    assert fetched.rules == {" shop ": stored}
    assert [one.rules for one in (await control_plane.rules.list(Paging())).items] == [stored]
    assert (await control_plane.rules.get(" shop ")).rules == stored
    assert (await control_plane.rules.delete("ann", " shop ")).rules == stored


async def test_a_failed_change_leaves_nothing(control_plane: ControlPlane, database_url: str) -> None:
    """When the audit row cannot be written, neither are the rules nor the announcement."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit_events ADD CONSTRAINT refuse CHECK (action <> 'rules.replace')")
        try:
            with pytest.raises(IntegrityError, match="refuse"):
                await control_plane.rules.replace("ann", rules())
        finally:
            connection.execute("ALTER TABLE audit_events DROP CONSTRAINT refuse")
        assert connection.execute("SELECT count(*) FROM rule_domains").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM changes").fetchone() == (0,)


async def test_changes_are_announced(control_plane: ControlPlane) -> None:
    """Every change of a domain's rules is in the feed."""
    feed = PostgresChangeFeed(control_plane.database)
    before = await feed.position()
    await control_plane.rules.replace("ann", rules())
    await control_plane.rules.delete("ann", "shop")
    found = await feed.wait(before)
    assert found.changes == [Change(ChangeKind.DOMAIN, "shop")] * 2
    await feed.close()


async def test_the_source_reads_what_is_in_force(control_plane: ControlPlane) -> None:
    """The decision plane reads the newest rules of the domains it asks for, or of all; deleted ones are gone."""
    source = PostgresRulesSource(control_plane.database)
    await control_plane.rules.replace("ann", DomainRules("one", TREE, DENY))
    await control_plane.rules.replace("ann", rules(1, "two"))
    await control_plane.rules.replace("ann", rules(2, "two"))
    await control_plane.rules.replace("ann", rules(1, "gone"))
    await control_plane.rules.delete("ann", "gone")
    everything = await source.fetch_all_rules()
    assert everything.rules == {"one": DomainRules("one", TREE, DENY), "two": rules(2, "two")}
    assert (await source.fetch_rules(["two", "gone", "never"])).rules == {"two": rules(2, "two")}


@pytest.mark.parametrize(
    "damage",
    [
        """UPDATE rule_versions SET descriptors = '[{"key": ""}]' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '[{"value": "v"}]' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '{}' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '5' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '[{"key": "k", "limits": [{"quota": {"amount": 0}}]}]'
           WHERE version = 2""",
        """DELETE FROM rule_versions WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '[]' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '[{"key": "a"}]' WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = '[]', limit_count = NULL WHERE version = 2""",
        """UPDATE rule_versions SET descriptors = to_jsonb(repeat('x', 9000000)) WHERE version = 2""",
        """UPDATE rule_versions SET descriptors =
           (repeat('[{"key": "a", "descriptors": ', 5000) || '[]' || repeat('}]', 5000))::jsonb WHERE version = 2""",
        """UPDATE rule_versions SET descriptors =
           '[{"key": "k", "limits": [{"quota": {"amount": 1e400, "window": "day"}}]}]' WHERE version = 2""",
        """UPDATE rule_domains SET delete_time = 'infinity' WHERE domain = 'bad'""",
        """UPDATE rule_domains SET delete_time = '-infinity' WHERE domain = 'bad'""",
    ],
)
async def test_bad_rows_are_reported(control_plane: ControlPlane, database_url: str, damage: str) -> None:
    """A domain with rows that are not valid rules is unreadable; the others are read."""
    await control_plane.rules.replace("ann", rules(1, "good"))
    await control_plane.rules.replace("ann", rules(1, "bad"))
    await control_plane.rules.replace("ann", rules(2, "bad"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(damage.encode())
    fetched = await PostgresRulesSource(control_plane.database).fetch_all_rules()
    assert (set(fetched.rules), fetched.unreadable) == ({"good"}, {"bad"})


async def test_a_name_that_no_call_can_have_is_not_read(control_plane: ControlPlane, database_url: str) -> None:
    """A domain with megabytes as its name takes nobody's time."""
    await control_plane.rules.replace("ann", rules(1, "good"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO rule_domains (domain, version, create_time, delete_time)"
            " VALUES (repeat('x', 30000000), 1, now(), 'infinity')"
        )
    fetched = await PostgresRulesSource(control_plane.database).fetch_all_rules()
    assert (set(fetched.rules), fetched.unreadable) == ({"good"}, set())


@pytest.mark.parametrize("damage", ["UPDATE rule_versions SET descriptors = '7'", "DELETE FROM rule_versions"])
async def test_rules_that_cannot_be_read_can_be_replaced_or_deleted(
    control_plane: ControlPlane, database_url: str, damage: str
) -> None:
    """They are shown as none; the next version puts them right, and they can be deleted."""
    for put_right in (control_plane.rules.delete("ann", "one"), control_plane.rules.replace("ann", rules(2, "one"))):
        await control_plane.rules.replace("ann", rules(1, "one"))
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(damage.encode())
        assert [each.rules.descriptors for each in (await control_plane.rules.list(Paging())).items] == [()]
        await put_right
    assert (await control_plane.rules.get("one")).rules == rules(2, "one")


async def test_a_domain_may_be_without_limits_if_that_was_asked_for(control_plane: ControlPlane) -> None:
    """Rules without any limit are in force when ManageRules was asked for that, however they got there."""
    await control_plane.rules.replace("ann", rules(1, "one"))
    await control_plane.rules.replace("ann", DomainRules("one"))
    await control_plane.rules.replace("ann", DomainRules("two", (node("a"),)))
    fetched = await PostgresRulesSource(control_plane.database).fetch_rules(["one", "two", "three"])
    assert fetched == ({"one": DomainRules("one"), "two": DomainRules("two", (node("a"),))}, set(), {"three"})


async def test_a_dead_postgres_is_unavailable() -> None:
    """While Postgres is down the service is unavailable."""
    database = Database("postgresql://nobody:nothing@127.0.0.1:1/none")
    plane = ControlPlane(database)
    assert isinstance(plane.transactions, PostgresTransactions)
    for work in (plane.rules.get("shop"), plane.rules.replace("ann", rules()), plane.rules.list(Paging())):
        with pytest.raises(Unavailable) as caught:
            await work
        assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
    await database.close()


def test_failures_have_one_name_each() -> None:
    """The values that are stored are those that the tables allow."""
    assert {failure.value for failure in RuleOnStoreFailure} == {"fail", "local", "allow", "deny"}


LARGE = {
    "limits": [
        RuleNode(f"k{n}", limits=tuple(RuleLimit(Quota(1, Window.DAY), f"l{i}") for i in range(16))) for n in range(251)
    ],
    "replaces": [
        RuleNode(
            f"k{n}",
            limits=tuple(
                RuleLimit(Quota(1, Window.DAY), f"l{i}", replaces=tuple(f"r{j}" for j in range(16))) for i in range(16)
            ),
        )
        for n in range(16)
    ],
    "stars": [RuleNode("path", f"*{n}*{n}*{n}*{n}*") for n in range(52)],
    "stars below": [RuleNode("a", descriptors=tuple(RuleNode("path", f"/{n}/*") for n in range(257)))],
}


@pytest.mark.parametrize("name", LARGE)
async def test_rules_that_take_too_long_are_refused(control_plane: ControlPlane, name: str) -> None:
    """New rules have at most 4,000 limits and replaced names, and 256 stars of a key on a level; one less is stored."""
    large = DomainRules(f"large {name}", tuple(LARGE[name]))
    for call in (control_plane.rules.replace("ann", large), control_plane.rules.check(large)):
        with pytest.raises(InvalidArgument, match="are allowed") as caught:
            await call
        assert [violation.field for violation in caught.value.violations] == ["descriptors"]
    *fewer, last = large.descriptors
    smaller = DomainRules(large.domain, (*fewer, RuleNode(last.key, last.value, descriptors=last.descriptors[:-1])))
    if name == "stars":
        smaller = DomainRules(large.domain, tuple(fewer))
    assert (await control_plane.rules.replace("ann", smaller)).version == 1


async def test_any_number_of_domains_is_read(control_plane: ControlPlane) -> None:
    """All domains are read at a start, in more than one read, and each once."""
    names = [f"domain-{number}" for number in range(45)]
    for name in names:
        await control_plane.rules.replace("ann", rules(1, name))
    source = PostgresRulesSource(control_plane.database)
    fetched = await source.fetch_all_rules()
    assert set(names) <= fetched.rules.keys()
    assert (await source.fetch_rules(names)).rules.keys() == set(names)


async def test_all_domains_together_are_bounded(control_plane: ControlPlane, database_url: str) -> None:
    """New domains, and rules that grow, are refused beyond 1,000 domains or 8 MiB; what is stored stays in force."""
    large = DomainRules("large", tuple(RuleNode(f"{n}-" + "k" * 250, "v" * 256) for n in range(1_000)))
    await control_plane.rules.replace("ann", large)
    await control_plane.rules.replace("ann", rules(1, "small"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        _copy_domain(connection, "large", 15)
        sizes = connection.execute("SELECT sum(octet_length(descriptors::text)) FROM rule_versions").fetchone()
    assert sizes is not None
    assert sizes[0] > MAX_TOTAL_BYTES
    grown = DomainRules("small", (*rules(1).descriptors, node("b")))
    for refused in (rules(1, "new"), grown):
        for call in (control_plane.rules.check(refused), control_plane.rules.replace("ann", refused)):
            with pytest.raises(InvalidArgument, match="every server holds them all") as caught:
                await call
            assert [violation.field for violation in caught.value.violations] == ["descriptors"]
    fewer = DomainRules("large", large.descriptors[1:])
    assert (await control_plane.rules.replace("ann", fewer)).version == 2
    fetched = await PostgresRulesSource(control_plane.database).fetch_all_rules()
    assert (len(fetched.rules), fetched.unreadable) == (17, frozenset())


async def test_the_number_of_domains_is_bounded(control_plane: ControlPlane, database_url: str) -> None:
    """With 1,000 domains a new one is refused, and one of them can still be changed and deleted."""
    await control_plane.rules.replace("ann", rules(1, "one"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        _copy_domain(connection, "one", MAX_DOMAINS - 1)
    with pytest.raises(InvalidArgument, match="delete the rules of others first") as caught:
        await control_plane.rules.replace("ann", rules(1, "another"))
    assert [violation.field for violation in caught.value.violations] == ["domain"]
    assert (await control_plane.rules.replace("ann", rules(2, "one"))).version == 2
    await control_plane.rules.delete("ann", "one")
    assert (await control_plane.rules.replace("ann", rules(1, "another"))).version == 1


def _copy_domain(connection: psycopg.Connection, domain: str, copies: int) -> None:
    """Add copies of a domain's rules, as if they had been there before."""
    connection.execute(
        "WITH made AS (INSERT INTO rule_domains (domain, version, create_time) SELECT domain || '-' || n, 1, now() "
        "FROM rule_domains, generate_series(1, %s) AS n WHERE domain = %s RETURNING domain_id) "
        "INSERT INTO rule_versions "
        "SELECT made.domain_id, 1, descriptors, on_store_failure, description, now(), limit_count "
        "FROM made, rule_versions JOIN rule_domains USING (domain_id) WHERE domain = %s AND rule_versions.version = 1",
        (copies, domain, domain),
    )
