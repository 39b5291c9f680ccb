"""Keys as messages of `ratelimit.v1`: what is read, and what is to be created, changed or listed."""

from ratelimit_service._gen.ratelimit.v1 import key_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service.api.key_admin.fields import optional_time, paths_of, time_to_proto
from ratelimit_service.api.key_admin.limit_messages import override_to_proto
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.key import Key, KeyChanges, KeyDraft, Standing
from ratelimit_service.management.key_filter import KeyFilter, public_part

_STATES = {
    Standing.ACTIVE: key_pb2.Key.ACTIVE,
    Standing.SUSPENDED: key_pb2.Key.SUSPENDED,
    Standing.REVOKED: key_pb2.Key.REVOKED,
    Standing.EXPIRED: key_pb2.Key.EXPIRED,
}
_STANDINGS = {state: standing for standing, state in _STATES.items()}
_UPDATABLE = ("plan", "description", "expire_time", "labels")


def key_to_proto(key: Key, now_us: int) -> key_pb2.Key:
    """The message of a key as it is now."""
    return key_pb2.Key(
        key_id=key.key_id,
        subject=key.subject,
        plan=key.plan,
        state=_STATES[key.standing(now_us)],
        description=key.description,
        create_time=time_to_proto(key.created_us),
        update_time=time_to_proto(key.updated_us),
        expire_time=time_to_proto(key.expires_us),
        previous_secret_expire_time=time_to_proto(key.previous_secret_expires_us(now_us)),
        etag=key.etag,
        overrides=[override_to_proto(override) for override in key.overrides],
        labels=key.labels,
        last_used_time=time_to_proto(key.last_used_us),
    )


def draft_from_proto(message: ManageKeyRequest.CreateKey) -> KeyDraft:
    """The draft of a new key. Raises InvalidArgument."""
    draft = KeyDraft(
        plan=message.plan,
        subject=message.subject,
        description=message.description,
        expires_us=optional_time(message, "expire_time"),
        labels=dict(message.labels),
        without_secret=message.without_secret,
    )
    if message.key_id:
        draft["key_id"] = message.key_id
    return draft


def changes_from_proto(message: ManageKeyRequest.UpdateKey) -> KeyChanges:
    """The fields that the mask names; one that is absent from the key is cleared. Raises InvalidArgument."""
    key, paths = message.key, paths_of(message.update_mask, _UPDATABLE)
    changes = KeyChanges()
    if "plan" in paths:
        changes["plan"] = key.plan
    if "description" in paths:
        changes["description"] = key.description
    if "expire_time" in paths:
        changes["expires_us"] = optional_time(key, "expire_time", "key.expire_time")
    if "labels" in paths:
        changes["labels"] = dict(key.labels)
    return changes


def filter_from_proto(message: ManageKeyRequest.ListKeys) -> KeyFilter:
    """Which keys to list. Raises InvalidArgument, which never repeats what is searched for."""
    if message.state and message.state not in _STANDINGS:
        raise InvalidArgument.of("state", f"is {message.state}, which is no state; send one of Key.State, or none")
    return KeyFilter(
        subject=message.subject,
        plan=message.plan,
        standing=_STANDINGS.get(message.state),
        subject_prefix=message.subject_prefix,
        labels=dict(message.labels),
        expires_after_us=optional_time(message, "expires_after"),
        expires_before_us=optional_time(message, "expires_before"),
        used_before_us=optional_time(message, "last_used_before"),
        never_used=message.never_used,
        key_id_prefix=public_part(message.search),
    )
