"""The stored data of a key, from which its policy is compiled."""

from dataclasses import dataclass
from enum import Enum

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
    """One key with its plan and overrides, read in one snapshot. Times are microseconds since 1970 UTC."""

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
