"""API keys as the control plane knows them."""

from dataclasses import dataclass
from enum import Enum
from typing import TypedDict

from ratelimit_service.decision.record import KeyState, Override, SecretHash
from ratelimit_service.errors import FailedPrecondition, NotFound
from ratelimit_service.keys.etag import etag_of


class Standing(Enum):
    """What a key's state comes to at a given time. The first that holds of REVOKED, SUSPENDED, EXPIRED, ACTIVE."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"


class KeyDraft(TypedDict):
    """What a new key is made from. Times are microseconds since 1970 UTC; `expires_us` None means never."""

    plan: str
    subject: str
    description: str
    expires_us: int | None


class KeyChanges(TypedDict, total=False):
    """The fields of a key to change, those only. `expires_us` None means never from now on."""

    plan: str
    description: str
    expires_us: int | None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. Times are microseconds since 1970 UTC.

    `secrets` has the hash of the current secret first and perhaps that of the one before, with its end. `revision`
    counts the key's changes.
    """

    key_id: str
    subject: str
    plan: str
    state: KeyState
    description: str
    created_us: int
    updated_us: int
    expires_us: int | None
    secrets: tuple[SecretHash, ...]
    revision: int = 1
    overrides: tuple[Override, ...] = ()

    @property
    def target(self) -> str:
        """The key's name in audit events and errors."""
        return f"keys/{self.key_id}"

    @property
    def etag(self) -> str:
        """Changes with every change of the key."""
        return etag_of("key", self.key_id, self.revision)

    def standing(self, now_us: int) -> Standing:
        """What the key's state comes to now."""
        if self.state is KeyState.REVOKED:
            return Standing.REVOKED
        if self.state is KeyState.SUSPENDED:
            return Standing.SUSPENDED
        expired = self.expires_us is not None and self.expires_us <= now_us
        return Standing.EXPIRED if expired else Standing.ACTIVE

    def previous_secret_expires_us(self, now_us: int) -> int | None:
        """Until when the secret before the last rotation is good. None when it is not, or there is none."""
        ends = [secret.expires_us for secret in self.secrets if secret.expires_us is not None]
        return max((end for end in ends if end > now_us), default=None)

    def refuse(self, action: str, now_us: int) -> FailedPrecondition:
        """Return the error for an ACTION that the key's state does not allow."""
        standing = self.standing(now_us).value
        return FailedPrecondition(
            f"key {self.key_id} is {standing}, which does not allow {action}",
            reason="KEY_STATE_CONFLICT",
            metadata={"key_id": self.key_id, "state": standing, "action": action},
        )


def key_not_found(key_id: str) -> NotFound:
    """Return the error for a key that does not exist."""
    return NotFound(f"there is no key {key_id}", reason="KEY_NOT_FOUND", metadata={"key_id": key_id})
