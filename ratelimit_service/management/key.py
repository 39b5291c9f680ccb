"""An API key as it is managed: its fields, its state, and which changes of state there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NotRequired, TypedDict

from ratelimit_service.decision.api_key import check_key_id
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.record import KeyState, Override, SecretHash
from ratelimit_service.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from ratelimit_service.management.audit import Event, changed_fields, rfc3339
from ratelimit_service.management.etag import etag_of
from ratelimit_service.management.plans import check_plan_name
from ratelimit_service.management.text import check_description, check_labels, check_subject


class Standing(Enum):
    """The effective state of a key at a given time: the first that holds of REVOKED, SUSPENDED, EXPIRED, ACTIVE."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"


class KeyDraft(TypedDict):
    """The fields of a new key. Times are microseconds since 1970 UTC; `expires_us` None means never.

    Without `key_id` it gets one at random. `without_secret`: it has no secret until it is rotated.
    """

    plan: str
    subject: str
    description: str
    expires_us: int | None
    labels: NotRequired[Mapping[str, str]]
    key_id: NotRequired[str]
    without_secret: NotRequired[bool]


class KeyChanges(TypedDict, total=False):
    """The fields of a key to change, those only. `expires_us` None means never from now on. `labels` replaces all."""

    plan: str
    description: str
    expires_us: int | None
    labels: Mapping[str, str]


StateAction = Literal["suspend", "resume", "revoke"]
"""What changes the state of a key."""

_REQUIRED_STATE = {"suspend": KeyState.ACTIVE, "resume": KeyState.SUSPENDED}
_STATE_AFTER = {"suspend": KeyState.SUSPENDED, "resume": KeyState.ACTIVE, "revoke": KeyState.REVOKED}


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. Times are microseconds since 1970 UTC.

    `secrets` has the hash of the current secret and, after it, those of earlier ones with their ends, the last first.
    `revision` counts the key's changes. `last_used_us` is the start of the last minute in which a call was counted,
    None when there is none; it comes with the counts and is not a change of the key.
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
    labels: Mapping[str, str] = field(default_factory=dict)
    last_used_us: int | None = None

    @property
    def target(self) -> str:
        """The key's name in audit events and errors."""
        return f"keys/{self.key_id}"

    @property
    def etag(self) -> str:
        """Changes with every change of the key."""
        return etag_of("key", self.key_id, self.revision)

    @property
    def change(self) -> Change:
        """What changes when the key does."""
        return Change(ChangeKind.KEY, self.key_id)

    def standing(self, now_us: int) -> Standing:
        """The effective state of the key at NOW_US."""
        if self.state is KeyState.REVOKED:
            return Standing.REVOKED
        if self.state is KeyState.SUSPENDED:
            return Standing.SUSPENDED
        expired = self.expires_us is not None and self.expires_us <= now_us
        return Standing.EXPIRED if expired else Standing.ACTIVE

    def previous_secret_expires_us(self, now_us: int) -> int | None:
        """Until when an earlier secret is valid, the last of several. None when there is none."""
        ends = [secret.expires_us for secret in self.secrets if secret.expires_us is not None]
        return max((end for end in ends if end > now_us), default=None)

    def after(self, action: StateAction, now_us: int) -> "Key":
        """The key as ACTION leaves it; a revoked key that is revoked again is left as it is, as the same object.

        Raises FailedPrecondition when its state does not allow the action.
        """
        if action == "revoke" and self.state is KeyState.REVOKED:
            return self
        if self.state is not _REQUIRED_STATE.get(action, self.state):
            raise self.conflict(action, now_us)
        return replace(self, state=_STATE_AFTER[action], updated_us=now_us, revision=self.revision + 1)

    def conflict(self, action: str, now_us: int) -> FailedPrecondition:
        """Return the error for an ACTION that the key's state does not allow."""
        standing = self.standing(now_us).value
        return FailedPrecondition(
            f"key {self.key_id} is {standing}, which does not allow {action}",
            reason="KEY_STATE_CONFLICT",
            metadata={"key_id": self.key_id, "state": standing, "action": action},
        )


def key_not_found(key_id: str) -> NotFound:
    """Return the error for a key that does not exist."""
    return NotFound(
        f"there is no key {key_id}: list keys to see what exists", reason="KEY_NOT_FOUND", metadata={"key_id": key_id}
    )


def key_exists(key_id: str) -> AlreadyExists:
    """Return the error for an id that cannot be that of a new key."""
    return AlreadyExists(
        f"key {key_id} exists already, or did before it was revoked; choose another id",
        reason="KEY_EXISTS",
        metadata={"key_id": key_id},
    )


def check_draft(draft: KeyDraft, now_us: int) -> None:
    """Raise InvalidArgument, which names the field, unless a key can be made of DRAFT. Its plan may not exist."""
    if "key_id" in draft:
        check_key_id(draft["key_id"])
    check_plan_name("plan", draft["plan"])
    check_subject(draft["subject"])
    check_description(draft["description"])
    check_labels(draft.get("labels", {}))
    check_expiry(draft["expires_us"], now_us)


def check_changes(key: Key, changes: KeyChanges, now_us: int) -> None:
    """Raise InvalidArgument, which names the field, unless KEY can be given these values. Texts that it has pass."""
    if "plan" in changes:
        check_plan_name("plan", changes["plan"])
    if "description" in changes:
        check_description(changes["description"], stored=[key.description])
    if "labels" in changes:
        check_labels(changes["labels"], stored=list(key.labels.values()))
    if "expires_us" in changes:
        check_expiry(changes["expires_us"], now_us)


def check_expiry(expires_us: int | None, now_us: int) -> None:
    """Raise InvalidArgument (field `expire_time`) for a time that has passed."""
    if expires_us is not None and expires_us <= now_us:
        raise InvalidArgument.of("expire_time", f"is {rfc3339(expires_us)}, which is in the past; choose a later time")


def creation(actor: str, key: Key) -> Event:
    """The event of a new key."""
    detail = {name: value for name, value in _fields(key).items() if value and name != "state"}
    if not key.secrets:
        detail["without_secret"] = True
    return Event(actor, "key.create", key.target, detail, key.created_us)


def modification(actor: str, action: str, before: Key, after: Key) -> Event:
    """The event of a key that ACTION, such as `update`, has changed."""
    previous, detail = changed_fields(_fields(before), _fields(after))
    return Event(actor, f"key.{action}", after.target, detail, after.updated_us, previous)


def _fields(key: Key) -> dict[str, Any]:
    """The fields of a key for the audit log."""
    fields = {
        "plan": key.plan,
        "subject": key.subject,
        "state": key.state.name,
        "description": key.description,
        "labels": dict(key.labels),
    }
    return fields if key.expires_us is None else {**fields, "expire_time": rfc3339(key.expires_us)}
