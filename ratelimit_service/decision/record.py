"""What the management side knows of a key: the raw material of a policy."""

from dataclasses import dataclass
from enum import Enum

from ratelimit_service.decision.limit import Limit


class KeyState(Enum):
    """Whether a key is good for calls. EXPIRED is not stored: it follows from the expire time."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class OnStoreFailure(Enum):
    """What callers see while the bucket store cannot be asked."""

    LOCAL = "local"
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class SecretHash:
    """HMAC-SHA256 of a secret under the pepper of this version, good until `expires_us` (None: no end)."""

    pepper_version: int
    digest: bytes
    expires_us: int | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """A limit in place of the plan's of the same name until `expires_us` (None: no end)."""

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
