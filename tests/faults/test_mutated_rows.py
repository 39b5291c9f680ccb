"""Rows that no API would write, in every table that decisions are read from: each harms only what it says.

`make test-faults` mutates 10,000 rows, CI some hundreds; RATELIMIT_FAULT_ROWS sets another number, and
RATELIMIT_FAULT_SEED repeats a run.
"""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import psycopg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from faults.damage import FIXED, Damage, Effect, documents, too_many, twice
from faults.sizes import FACTOR, FULL
from fixtures.control_plane import BURST, DAILY, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode, Unlimited
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import UNREADABLE_RULES
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import Level, Quota, Window
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import OnStoreFailure, Override
from ratelimit_service.errors import LookupDeferred
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.tokens import Role
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.policy_source import PostgresPolicySource
from ratelimit_service.postgres.rules_source import PostgresRulesSource
from ratelimit_service.postgres.tables import CHANGES_CHANNEL
from ratelimit_service.postgres.token_source import PostgresTokenSource
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

MUTATIONS = int(os.environ.get("RATELIMIT_FAULT_ROWS") or (10_000 if FULL else 300))
PER_ROUND = 20
SEED = int(os.environ.get("RATELIMIT_FAULT_SEED") or Random().randrange(2**32))

_NODES = (
    RuleNode(
        "user", "", (RuleLimit(Quota(5, Window.DAY)), RuleLimit(Quota(9, Window.MONTH), "month", replaces=("x",)))
    ),
    RuleNode("path", "/a*", (RuleLimit(BURST.algorithm, "burst"),), share_threshold=True),
    RuleNode("open", "", (RuleLimit(Unlimited()),), (RuleNode("deep", "", (RuleLimit(Quota(1, Window.HOUR)),)),)),
)
_ENTRIES = [(("user", "1"),), (("path", "/abc"),), (("open", "1"),), (("open", "1"), ("deep", "2"))]
_KEYS = {"overrides": "key_id"}
_IDENTITY = {
    "keys": "key_id",
    "key_secrets": "key_id",
    "plans": "name",
    "plan_versions": "name",
    "overrides": "target",
    "rule_domains": "domain",
    "rule_versions": "domain",
    "admin_tokens": "token_id",
}
_ROWS = {
    "keys": "SELECT ctid, key_id AS name, to_jsonb(t)::text AS row FROM keys AS t WHERE subject <> 'witness'",
    "key_secrets": "SELECT s.ctid, s.key_id, to_jsonb(s)::text FROM key_secrets AS s JOIN keys AS k USING (key_id) "
    "WHERE subject <> 'witness'",
    "plans": "SELECT ctid, name, to_jsonb(t)::text FROM plans AS t WHERE name <> 'witness'",
    "plan_versions": "SELECT v.ctid, p.name, to_jsonb(v)::text FROM plan_versions AS v JOIN plans AS p USING (plan_id) "
    "WHERE name <> 'witness'",
    "overrides": "SELECT ctid, target, to_jsonb(t)::text FROM overrides AS t",
    "rule_domains": "SELECT ctid, domain, to_jsonb(t)::text FROM rule_domains AS t",
    "rule_versions": "SELECT v.ctid, d.domain, to_jsonb(v)::text FROM rule_versions AS v "
    "JOIN rule_domains AS d USING (domain_id, version)",
    "admin_tokens": "SELECT ctid, token_id, to_jsonb(t)::text FROM admin_tokens AS t WHERE revoke_time IS NULL "
    "AND name <> 'witness'",
    "changes": "SELECT ctid, number::text, to_jsonb(t)::text FROM changes AS t ORDER BY number DESC LIMIT 5",
}
_KINDS = {
    "keys": "key",
    "key_secrets": "key",
    "plans": "plan",
    "plan_versions": "plan",
    "rule_domains": "domain",
    "rule_versions": "domain",
}
_DOCUMENTS = {"plan_versions": "limits", "overrides": "limit_document", "rule_versions": "descriptors"}
_REFUSALS = {
    Effect.REVOKED: Reason.KEY_REVOKED,
    Effect.SUSPENDED: Reason.KEY_SUSPENDED,
    Effect.EXPIRED: Reason.KEY_EXPIRED,
}


class Mutated(NamedTuple):
    """A row that was mutated: where it is now, whose it is, and what it was."""

    damage: Damage
    ctid: str
    name: str
    before: dict[str, Any]


class World:
    """A server's caches on a real Postgres without constraints, which somebody else writes to as well."""

    def __init__(self, database: Database, url: str, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.url = url
        self.plane = ControlPlane(database)
        ticks = count(step=100)
        self.unreadable = UnreadableRows(lambda: float(next(ticks)))  # each problem is logged each time
        self.policies = PolicyCache(PostgresPolicySource(database, self.unreadable), self.plane.clock)
        self.rules = RulesCache(PostgresRulesSource(database, self.unreadable))
        self.resolver = KeyResolver(self.policies, self.plane.peppers)
        self.tokens = PostgresTokenSource(url, self.unreadable)
        self.feed = PostgresChangeFeed(database, self.unreadable)
        self.following: asyncio.Task[None] | None = None
        self.api_keys: dict[str, str] = {}
        self.subjects: dict[str, str] = {}
        self.plans: dict[str, str] = {}
        self.good: dict[str, Policy] = {}
        self.good_tokens: set[str] = set()
        self.names: set[str] = set()
        self.witness = ""
        self.suspended = False
        self.slowest = 0.0

    async def fill(self) -> None:
        """Write plans, keys, overrides, rules and tokens, and read them all."""
        failures = list(OnStoreFailure)
        for number in range(6):
            draft = plan_draft(f"plan-{number}", BURST, DAILY)
            await self.plane.plans.create("ada", {**draft, "on_store_failure": failures[number % 3]})
        await self.plane.plans.create("ada", plan_draft("witness"))
        witness, _ = await self.plane.keys.create("ada", key_draft("witness", "witness"))
        self.witness = witness.key_id
        for number in range(24):
            subject, plan = f"subject-{number // 2}", f"plan-{number % 6}"
            key, api_key = await self.plane.keys.create("ada", key_draft(subject, plan))
            self.api_keys[key.key_id], self.subjects[key.key_id] = str(api_key), subject
            self.plans[key.key_id] = plan
            if number < 6:
                await self.plane.overrides.set("ada", OverrideTarget(Level.KEY, key.key_id), Override(DAILY))
            if number % 4 == 0:
                await self.plane.overrides.set("ada", OverrideTarget(Level.SUBJECT, subject), Override(BURST))
        for number in range(5):
            await self.plane.rules.replace("ada", DomainRules(f"domain-{number}", _NODES))
        for name in ("one", "two", "three", "witness"):
            await self.plane.tokens.create(name, Role.GATEWAY)
        self.following = asyncio.create_task(CacheInvalidator(self.feed, self.policies, self.rules).run())
        await self.rules.refresh_all()
        for key_id, api_key in self.api_keys.items():
            policy = await self.resolver.resolve(api_key)
            assert policy is not None
            self.good[key_id] = policy
        await self.policies.get(self.witness)
        table = await self.tokens.read(None)
        assert table is not None
        self.good_tokens = set(table.tokens)
        self.names = {*self.good, *self.subjects.values(), *self.plans.values(), *self.good_tokens}
        self.names |= {f"domain-{number}" for number in range(5)}

    async def close(self) -> None:
        if self.following is not None:
            self.following.cancel()
        await self.policies.close()
        await self.rules.close()
        await self.tokens.close()

    def mutate(self, random: Random, taken: set[tuple[str, str]]) -> Mutated | None:
        """Mutate one row past the API, and announce it as its writer might. None if it cannot be written."""
        table = random.choice(list(_ROWS))
        rows = self.connection.execute(_ROWS[table].encode()).fetchall()
        if not rows:  # all of them were taken already
            return None
        ctid, name, row = random.choice(rows)
        if (table, name) in taken or (table != "changes" and name not in self.names):
            return None
        before = json.loads(row)
        damage = _choose(table, before, random)
        statement = f"UPDATE {table} SET {damage.column} = {damage.value} WHERE ctid = %s RETURNING ctid"
        try:
            with self.connection.transaction():
                (moved,) = self.connection.execute(statement.encode(), (ctid,)).fetchone() or ("",)
        except psycopg.Error as error:
            if error.sqlstate in ("23505", "54000"):  # another row has it, or it is too large for the index
                return None
            raise
        taken.add((table, name))
        return Mutated(damage, moved, name, before)

    def announce(self, mutated: list[Mutated]) -> None:
        """Announce what changed."""
        for damage, _, name, before in mutated:
            kind = _KINDS.get(damage.table) or (before["level"] if damage.table == "overrides" else None)
            if kind is not None:
                self.connection.execute("INSERT INTO changes (kind, name, time) VALUES (%s, %s, now())", (kind, name))
        self.connection.execute(f"NOTIFY {CHANGES_CHANNEL}".encode())

    def restore(self, mutated: list[Mutated]) -> None:
        """Put the rows back as they were."""
        for damage, ctid, _, before in mutated:
            self.connection.execute(f"DELETE FROM {damage.table} WHERE ctid = %s".encode(), (ctid,))
            self.connection.execute(
                f"INSERT INTO {damage.table} OVERRIDING SYSTEM VALUE "
                f"SELECT * FROM jsonb_populate_record(NULL::{damage.table}, %s::jsonb)".encode(),
                (json.dumps(before),),
            )

    async def follow(self) -> None:
        """Change a key by the API, and wait until that and all before it is in force."""
        change = self.plane.keys.resume if self.suspended else self.plane.keys.suspend
        self.suspended = not self.suspended
        await change("ada", self.witness)
        began = monotonic()
        wanted = Reason.KEY_SUSPENDED if self.suspended else None
        while (policy := await self.policies.get(self.witness)) is None or policy.refusal is not wanted:
            assert monotonic() - began < 1 * FACTOR, "another change is not followed"
            await asyncio.sleep(0.002)
        self.slowest = max(self.slowest, monotonic() - began)
        async with asyncio.timeout(30):
            while self.policies.refresh_age > 0:  # noqa: ASYNC110 what is awaited is the cache's own
                await asyncio.sleep(0.002)

    def effects(self, mutated: list[Mutated]) -> dict[str, set[Effect]]:
        """What must come of it, by key."""
        found: defaultdict[str, set[Effect]] = defaultdict(set)
        for damage, _, name, _ in mutated:
            for key_id in self.good:
                if name in (key_id, self.subjects[key_id], self.plans[key_id]):
                    found[key_id].add(damage.effect)
        return found


def _choose(table: str, before: dict[str, Any], random: Random) -> Damage:
    column = _DOCUMENTS.get(table)
    if column is not None and random.random() < 0.7:
        value = documents(table, before[column], random)
        if table == "plan_versions" and random.random() < 0.1:
            value = random.choice([too_many(before[column], 17), twice(before[column])])
        return Damage(table, column, value)
    return random.choice([damage for damage in FIXED if damage.table == table])


@pytest_asyncio.fixture
async def world(loose_database: Database, loose_url: str) -> AsyncIterator[World]:
    """A world with plans, keys, overrides, rules and tokens, all of them in memory."""
    with psycopg.connect(loose_url, autocommit=True) as connection:
        world = World(loose_database, loose_url, connection)
        await world.fill()
        yield world
        await world.close()
        await world.feed.close()


def _rules(policy: Policy) -> list[tuple[Any, ...]]:
    return [(rule.limit, rule.level, rule.bucket.name, rule.enforced) for rule in policy.rules]


@pytest.mark.timeout(1_800)
async def test_a_mutated_row_harms_only_what_it_says(world: World) -> None:
    """Every key decides by its last valid limits, or is refused; other changes follow, and each row is named."""
    print(f"RATELIMIT_FAULT_SEED={SEED}")  # noqa: T201  to repeat the run
    random, done, counted = Random(SEED), 0, defaultdict[str, int](int)
    while done < MUTATIONS:
        taken: set[tuple[str, str]] = set()
        drawn = [world.mutate(random, taken) for _ in range(PER_ROUND)]
        mutated = [each for each in drawn if each is not None]
        with capture_logs() as logs:
            world.announce(mutated)
            await world.follow()
            await _check_hot(world, mutated)
            await _check_cold(world, mutated)
        _check_named(mutated, logs, world)
        world.restore(mutated)
        world.announce(mutated)
        await world.follow()
        await _check_hot(world, [])
        for each in mutated:
            counted[each.damage.table] += 1
        done += len(mutated)
    await _check_cold(world, [])
    print(f"{done} rows: {dict(counted)}; slowest other change {world.slowest:.3f} s")  # noqa: T201  the figures of `make test-faults`


async def _check_hot(world: World, mutated: list[Mutated]) -> None:
    """What is decided by a server that had read everything before."""
    effects = world.effects(mutated)
    what = [(each.damage, each.name) for each in mutated]
    for key_id, good in world.good.items():
        found = effects.get(key_id, set())
        policy = await world.policies.get(key_id)
        if Effect.UNKNOWN in found:
            assert policy is None, what
            continue
        assert policy is not None, what
        refusals = {_REFUSALS[effect] for effect in found if effect in _REFUSALS}
        if refusals:
            assert policy.refusal in refusals, what
        else:
            assert policy.refusal is None, what
        assert _rules(policy) == _rules(good), what
        await _check_secret(world.resolver, world, key_id, found)
    for number in range(5):
        tree = world.rules.get(f"domain-{number}")
        assert tree is not None, what
        assert [len(tree.match(entries).limits) for entries in _ENTRIES] == [2, 1, 1, 1], what
    ended = {each.name for each in mutated if each.damage.effect is Effect.TOKEN_ENDED}
    table = await world.tokens.read(None)
    assert table is not None
    assert set(table.tokens) == world.good_tokens - ended, what


async def _check_secret(resolver: KeyResolver, world: World, key_id: str, found: set[Effect]) -> None:
    """What is decided for a caller who sends the key in full."""
    try:
        policy = await resolver.resolve(world.api_keys[key_id])
    except LookupDeferred:  # the decision is DEGRADED_DENIED
        assert Effect.SECRET_HIDDEN in found, found
    else:
        assert (policy is None) == bool(found & {Effect.SECRET_ENDED, Effect.UNKNOWN}), found
        assert Effect.SECRET_HIDDEN not in found


async def _check_cold(world: World, mutated: list[Mutated]) -> None:
    """What is decided by a server that starts now: nothing is allowed for want of a limit."""
    effects = world.effects(mutated)
    database = Database(world.url)
    policies = PolicyCache(PostgresPolicySource(database), world.plane.clock)
    rules = RulesCache(PostgresRulesSource(database))
    async with AsyncExitStack() as stack:
        for close in (database.close, rules.close, policies.close):
            stack.push_async_callback(close)
        await rules.refresh_all()
        found = await asyncio.gather(*(policies.get(key_id) for key_id in world.good))
        for (key_id, good), policy in zip(world.good.items(), found, strict=True):
            own = effects.get(key_id, set())
            if Effect.UNKNOWN in own:
                assert policy is None
                continue
            assert policy is not None
            refusals = {_REFUSALS[effect] for effect in own if effect in _REFUSALS}
            if refusals:
                assert policy.refusal in refusals, own
            elif Effect.REFUSED in own:
                assert policy.refusal is Reason.DEGRADED_DENIED, own
            else:
                assert policy.refusal is None, own
                assert _rules(policy) == _rules(good)
        refused = {each.name for each in mutated if each.damage.effect is Effect.REFUSED}
        renamed = {each.name for each in mutated if each.damage[:2] == ("rule_domains", "domain")}
        for number in range(5):
            tree = rules.get(f"domain-{number}")
            if f"domain-{number}" in renamed:
                assert tree is None  # nobody can know that there was one
            else:
                assert (tree is UNREADABLE_RULES) == (f"domain-{number}" in refused)


def _check_named(mutated: list[Mutated], logs: list[Any], world: World) -> None:
    """Each row that could not be read is named in the log, and counted by its table."""
    lines = [(line["table"], line["row"]) for line in logs if "table" in line]
    hidden = {Effect.REFUSED, Effect.SECRET_KEPT, Effect.SECRET_HIDDEN}
    gone = {each.name for each in mutated if each.damage.effect is Effect.UNKNOWN}
    for damage, _, name, before in mutated:
        if damage.effect not in hidden or name in gone:
            continue
        table = {"plans": "plan_versions", "rule_domains": "rule_versions"}.get(damage.table, damage.table)
        wanted = str(before["plan_id"]) if table == "plan_versions" else name
        assert any(line[0] == table and wanted in line[1] for line in lines), (damage, name, lines)
        assert world.unreadable.counts[table] > 0
