"""Keys as messages of `ratelimit.v1`. The only place that knows both."""

from ratelimit_service._gen.ratelimit.v1 import key_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service.doors.admin.limit_messages import from_override
from ratelimit_service.doors.admin.mask import to_paths
from ratelimit_service.doors.admin.times import from_time_us, to_time_us
from ratelimit_service.keys.key import Key, KeyChanges, KeyDraft, Standing

_STATES = {
    Standing.ACTIVE: key_pb2.Key.ACTIVE,
    Standing.SUSPENDED: key_pb2.Key.SUSPENDED,
    Standing.REVOKED: key_pb2.Key.REVOKED,
    Standing.EXPIRED: key_pb2.Key.EXPIRED,
}
_CHANGEABLE = ("plan", "description", "expire_time")


def from_key(key: Key, now_us: int) -> key_pb2.Key:
    """Return the message of a key as it stands now."""
    return key_pb2.Key(
        key_id=key.key_id,
        subject=key.subject,
        plan=key.plan,
        state=_STATES[key.standing(now_us)],
        description=key.description,
        create_time=from_time_us(key.created_us),
        update_time=from_time_us(key.updated_us),
        expire_time=from_time_us(key.expires_us),
        previous_secret_expire_time=from_time_us(key.previous_secret_expires_us(now_us)),
        etag=key.etag,
        overrides=[from_override(override) for override in key.overrides],
    )


def to_draft(message: ManageKeyRequest.CreateKey) -> KeyDraft:
    """Return what a new key is made from. Raises InvalidArgument."""
    return KeyDraft(
        plan=message.plan,
        subject=message.subject,
        description=message.description,
        expires_us=to_time_us("expire_time", message.expire_time) if message.HasField("expire_time") else None,
    )


def to_changes(message: ManageKeyRequest.UpdateKey) -> KeyChanges:
    """Return what the mask says to change; a field that is absent from the key is cleared. Raises InvalidArgument."""
    key, paths = message.key, to_paths(message.update_mask, _CHANGEABLE)
    changes = KeyChanges()
    if "plan" in paths:
        changes["plan"] = key.plan
    if "description" in paths:
        changes["description"] = key.description
    if "expire_time" in paths:
        changes["expires_us"] = to_time_us("key.expire_time", key.expire_time) if key.HasField("expire_time") else None
    return changes
