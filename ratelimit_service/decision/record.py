"""The stored data of a key, from which its policy is compiled."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypedDict, Unpack

from ratelimit_service.decision.limit import Limit


class KeyState(Enum):
    """Whether a key may be used. EXPIRED is not stored: it follows from the expire time."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class OnStoreFailure(Enum):
    """What callers get while the bucket store is unavailable."""

    LOCAL = "local"
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class SecretHash:
    """HMAC-SHA256 of a secret under the pepper of this version, valid until `expires_us` (None: does not expire).

    `environment` is the <env> of its key, None if it is not known, since earlier versions did not store it.
    """

    pepper_version: int
    digest: bytes
    expires_us: int | None = None
    environment: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """A limit in place of the plan's of the same name until `expires_us` (None: does not expire)."""

    limit: Limit
    expires_us: int | None = None


class RecordFields(TypedDict, total=False):
    """The fields of a PolicyRecord that could be read, those only."""

    subject: str
    state: KeyState
    expires_us: int | None
    secrets: tuple[SecretHash, ...]
    plan: str
    plan_version: int
    on_store_failure: OnStoreFailure
    limits: tuple[Limit, ...]
    subject_overrides: tuple[Override, ...]
    key_overrides: tuple[Override, ...]


class _SecretTerms(NamedTuple):
    """What a secret has beside its digest, of SIZE bytes."""

    size: int
    pepper_version: int
    expires_us: int | None
    environment: str | None


class _Terms(NamedTuple):
    """What most keys of a plan have in common."""

    state: KeyState
    secrets: tuple[_SecretTerms, ...]
    plan: str
    plan_version: int
    on_store_failure: OnStoreFailure
    limits: tuple[Limit, ...]
    subject_overrides: tuple[Override, ...]
    key_overrides: tuple[Override, ...]
    is_denied: bool
    hides_secrets: bool


class PolicyRecord:
    """One key with its plan and overrides, read in one snapshot. Times are microseconds since 1970 UTC.

    `is_denied`: whether its limits are not known, because a row could not be read and none was valid before, so that
    its calls are denied. `hides_secrets`: whether the row of a secret could not be read, which may be the one of a call
    that matches no other.

    It does not change, and is compared by its fields. A worker has a hundred thousand of these: it has what is the
    key's own, and one object with its neighbours for the rest.
    """

    __slots__ = ("_digests", "_terms", "expires_us", "key_id", "subject")

    def __init__(  # noqa: PLR0913, PLR0917  a row of several tables
        self,
        key_id: str,
        subject: str,
        state: KeyState,
        expires_us: int | None,
        secrets: tuple[SecretHash, ...],
        plan: str,
        plan_version: int,
        on_store_failure: OnStoreFailure,
        limits: tuple[Limit, ...],
        subject_overrides: tuple[Override, ...] = (),
        key_overrides: tuple[Override, ...] = (),
        is_denied: bool = False,  # noqa: FBT001, FBT002  the last two of its fields
        hides_secrets: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        self.key_id = key_id
        self.subject = subject
        self.expires_us = expires_us
        self._digests = b"".join([secret.digest for secret in secrets])
        self._terms = _shared(
            _Terms(
                state,
                tuple(
                    [
                        _SecretTerms(len(each.digest), each.pepper_version, each.expires_us, each.environment)
                        for each in secrets
                    ]
                ),
                plan,
                plan_version,
                on_store_failure,
                limits,
                subject_overrides,
                key_overrides,
                is_denied,
                hides_secrets,
            )
        )

    @property
    def state(self) -> KeyState:
        """Whether the key may be used."""
        return self._terms.state

    @property
    def secrets(self) -> tuple[SecretHash, ...]:
        """The secrets that the key has, those that have expired included, in the order of their rows."""
        secrets, at = [], 0
        for size, pepper_version, expires_us, environment in self._terms.secrets:
            secrets.append(SecretHash(pepper_version, self._digests[at : at + size], expires_us, environment))
            at += size
        return tuple(secrets)

    @property
    def secret_expiries(self) -> list[int]:
        """When those of its secrets expire that do."""
        return [each.expires_us for each in self._terms.secrets if each.expires_us is not None]

    @property
    def plan(self) -> str:
        """The name of its plan."""
        return self._terms.plan

    @property
    def plan_version(self) -> int:
        """The version of the plan in force."""
        return self._terms.plan_version

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What its callers get while the bucket store is unavailable."""
        return self._terms.on_store_failure

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of its plan."""
        return self._terms.limits

    @property
    def subject_overrides(self) -> tuple[Override, ...]:
        """Limits of its subject."""
        return self._terms.subject_overrides

    @property
    def key_overrides(self) -> tuple[Override, ...]:
        """Limits of its own."""
        return self._terms.key_overrides

    @property
    def is_denied(self) -> bool:
        """Whether its limits are not known."""
        return self._terms.is_denied

    @property
    def hides_secrets(self) -> bool:
        """Whether the row of a secret could not be read."""
        return self._terms.hides_secrets

    @property
    def fields(self) -> RecordFields:
        """What was read of it."""
        return RecordFields(
            subject=self.subject,
            state=self.state,
            expires_us=self.expires_us,
            secrets=self.secrets,
            plan=self.plan,
            plan_version=self.plan_version,
            on_store_failure=self.on_store_failure,
            limits=self.limits,
            subject_overrides=self.subject_overrides,
            key_overrides=self.key_overrides,
        )

    def having(self, **fields: Unpack[RecordFields]) -> "PolicyRecord":
        """The same with other FIELDS."""
        return PolicyRecord(
            self.key_id, **(self.fields | fields), is_denied=self.is_denied, hides_secrets=self.hides_secrets
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicyRecord):
            return NotImplemented
        return (
            self.key_id == other.key_id
            and self.subject == other.subject
            and self.expires_us == other.expires_us
            and self._digests == other._digests
            and self._terms == other._terms
        )

    def __hash__(self) -> int:
        return hash(self.key_id)

    def __repr__(self) -> str:
        return f"PolicyRecord({self.key_id!r}, {self.fields!r})"


_MAX_SHARED: Final = 2_000
"""Terms that are remembered: there are as many as plans, but for keys that have overrides, or a secret that expires."""

_known: dict[tuple[object, ...], _Terms] = {}


def _shared(terms: _Terms) -> _Terms:
    """One object for all equal TERMS, if their limits and overrides are the same objects: to compare those is slow."""
    limits, subject_overrides, key_overrides = terms[5:8]
    name = (*terms[:5], id(limits), id(subject_overrides), id(key_overrides), *terms[8:])
    known = _known.get(name)  # it holds what has these ids
    if known is None:
        if len(_known) >= _MAX_SHARED:
            _known.clear()
        known = _known[name] = terms
    return known


_NEEDED = RecordFields.__annotations__.keys() - {"secrets"}


@dataclass(frozen=True, slots=True)
class PartialRecord:
    """A key with rows of which some cannot be read: what could be read of them, or is known from before.

    `fields` has its secrets that could be read; `unread_digests` are those of its other secrets.
    """

    key_id: str
    fields: RecordFields
    unread_digests: frozenset[bytes] = frozenset()

    def over(self, last: PolicyRecord | None) -> PolicyRecord:
        """The record in force: what could be read, and for the rest the LAST one. Without one its calls are denied.

        So a revocation, a suspension, an expiry and the end of a secret are in force whatever else cannot be read.
        """
        secrets = self.fields.get("secrets", ())
        found = {secret.digest for secret in secrets}
        missing = self.unread_digests - found
        if last is not None:
            kept = tuple(secret for secret in last.secrets if secret.digest in missing)
            missing -= {secret.digest for secret in kept}
            fields = self.fields | RecordFields(secrets=secrets + kept)
            return PolicyRecord(
                self.key_id, **(last.fields | fields), is_denied=last.is_denied, hides_secrets=bool(missing)
            )
        unknown = RecordFields(
            subject="",
            state=KeyState.ACTIVE,
            expires_us=None,
            secrets=(),
            plan="",
            plan_version=0,
            on_store_failure=OnStoreFailure.DENY,
            limits=(),
            subject_overrides=(),
            key_overrides=(),
        )
        return PolicyRecord(
            self.key_id,
            **(unknown | self.fields),
            is_denied=not self.fields.keys() >= _NEEDED,
            hides_secrets=bool(missing),
        )
