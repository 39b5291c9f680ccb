"""The stored data of a key, from which its policy is compiled."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypedDict

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


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One key with its plan and overrides, read in one snapshot. Times are microseconds since 1970 UTC.

    `is_denied`: whether its limits are not known, because a row could not be read and none was valid before, so that
    its calls are denied. `hides_secrets`: whether the row of a secret could not be read, which may be the one of a call
    that matches no other.
    """

    key_id: str
    subject: str
    state: KeyState
    expires_us: int | None
    secrets: tuple[SecretHash, ...]
    plan: str
    plan_version: int
    on_store_failure: OnStoreFailure
    limits: tuple[Limit, ...]
    subject_overrides: tuple[Override, ...] = ()
    key_overrides: tuple[Override, ...] = ()
    is_denied: bool = False
    hides_secrets: bool = False


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
            return replace(last, **fields, hides_secrets=bool(missing))
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
