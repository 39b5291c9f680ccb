"""What the control plane needs from its database. The adapter implements these; the domain does not import it."""

from __future__ import annotations  # the modules of the nouns import this one

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from ratelimit_service.decision.ports import Change
from ratelimit_service.decision.record import Override

if TYPE_CHECKING:
    from ratelimit_service.management.audit import AuditEvent, Event
    from ratelimit_service.management.keys import Key
    from ratelimit_service.management.overrides import OverrideTarget
    from ratelimit_service.management.plans import Plan
    from ratelimit_service.management.rules import RuleSet
    from ratelimit_service.management.tokens import StoredToken


class KeyRepository(Protocol):
    """Stores keys."""

    async def get(self, key_id: str) -> Key | None:
        """Read a key with its overrides, revoked ones included."""
        ...

    async def list(self, *, after: int | None, count: int, subject: str, plan: str) -> Sequence[tuple[int, Key]]:
        """Read at most COUNT keys in the order of their creation, each with its number, all numbered above AFTER.

        AFTER None, and an empty SUBJECT or PLAN, do not filter.
        """
        ...

    async def add(self, key: Key) -> None:
        """Insert a new key. Its plan exists."""
        ...

    async def save(self, key: Key) -> None:
        """Update a key and replace its secrets. Its overrides stay as they are."""
        ...

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        ...


class PlanRepository(Protocol):
    """Stores plans and all their versions."""

    async def get(self, name: str, version: int = 0) -> Plan | None:
        """Read a version of a plan, 0 being the one in force."""
        ...

    async def list(self, *, after: str, count: int) -> Sequence[Plan]:
        """Read at most COUNT plans, in the order of their names, whose name comes after AFTER."""
        ...

    async def add(self, plan: Plan) -> None:
        """Insert a new plan. No plan has its name."""
        ...

    async def add_version(self, plan: Plan) -> None:
        """Put a new version of a plan in force."""
        ...

    async def delete(self, plan: Plan, now_us: int) -> None:
        """Mark a plan as deleted, so that its name is free again. Revoked keys still refer to it."""
        ...


class OverrideRepository(Protocol):
    """Stores the overrides of keys and subjects."""

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides of a target in the order of their limits' names, those that have expired included."""
        ...

    async def put(self, target: OverrideTarget, override: Override) -> None:
        """Insert an override, or replace the one of the same name."""
        ...

    async def delete(self, target: OverrideTarget, limit: str) -> bool:
        """Delete the override of this name. False if there is none."""
        ...


class RulesRepository(Protocol):
    """Stores the descriptor rules of domains and all their versions."""

    async def get(self, domain: str, version: int = 0) -> RuleSet | None:
        """Read a version of a domain's rules, 0 being the one in force."""
        ...

    async def list(self, *, after: str, count: int) -> Sequence[RuleSet]:
        """Read at most COUNT rule sets in force, in the order of their domains, whose domain comes after AFTER."""
        ...

    async def add(self, rules: RuleSet) -> None:
        """Put the first rules of a domain in force. The domain has none."""
        ...

    async def add_version(self, rules: RuleSet) -> None:
        """Put a new version of a domain's rules in force."""
        ...

    async def delete(self, rules: RuleSet, now_us: int) -> None:
        """Mark a domain's rules as deleted, so that its name is free again."""
        ...


class AuditRepository(Protocol):
    """Reads the audit log. `UnitOfWork.record` writes it."""

    async def list(self, *, before: int | None, count: int, target: str) -> Sequence[AuditEvent]:
        """Read at most COUNT events, newest first, numbered below BEFORE (None: all), of TARGET unless it is empty."""
        ...


class TokenRepository(Protocol):
    """Stores tokens."""

    async def get(self, token_id: str) -> StoredToken | None:
        """Read a token by its public id, revoked ones included."""
        ...

    async def get_named(self, name: str) -> StoredToken | None:
        """Read the token of this name that is not revoked."""
        ...

    async def list(self) -> Sequence[StoredToken]:
        """Read all tokens in the order of their names, revoked ones included."""
        ...

    async def add(self, token: StoredToken) -> None:
        """Insert a new token. No token with its name is valid."""
        ...

    async def revoke(self, token_id: str, now_us: int) -> None:
        """Mark a token as revoked."""
        ...

    async def any(self) -> bool:
        """Whether there is a token that is not revoked."""
        ...


class UnitOfWork(Protocol):
    """One transaction."""

    @property
    def keys(self) -> KeyRepository:
        """The keys, as this transaction sees them."""
        ...

    @property
    def plans(self) -> PlanRepository:
        """The plans, as this transaction sees them."""
        ...

    @property
    def overrides(self) -> OverrideRepository:
        """The overrides, as this transaction sees them."""
        ...

    @property
    def rules(self) -> RulesRepository:
        """The descriptor rules, as this transaction sees them."""
        ...

    @property
    def audit(self) -> AuditRepository:
        """The audit log, as this transaction sees it."""
        ...

    @property
    def tokens(self) -> TokenRepository:
        """The tokens, as this transaction sees them."""
        ...

    async def record(self, event: Event, *changes: Change) -> None:
        """Write what this transaction did to the audit log, and announce CHANGES to every server once it commits."""
        ...


class Transactions(Protocol):
    """Begins transactions. Both raise Unavailable (POLICY_STORE_UNAVAILABLE), within a second when it is down."""

    def reading(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Return a transaction that only reads, in one snapshot."""
        ...

    def writing(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Return a transaction that commits when its block ends, and rolls back when the block raises.

        Writing transactions run one after the other, so what one has read does not change until it ends.
        """
        ...
