"""ManageKey, and keys as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import key_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service.api.key_admin.fields import (
    check_role,
    duration_from_proto,
    missing_action,
    paths_of,
    require_message,
    time_from_proto,
    time_to_proto,
    under,
)
from ratelimit_service.api.key_admin.limit_messages import override_to_proto
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.keys import Key, KeyChanges, KeyDraft, KeyService, Standing
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller

_STATES = {
    Standing.ACTIVE: key_pb2.Key.ACTIVE,
    Standing.SUSPENDED: key_pb2.Key.SUSPENDED,
    Standing.REVOKED: key_pb2.Key.REVOKED,
    Standing.EXPIRED: key_pb2.Key.EXPIRED,
}
_UPDATABLE = ("plan", "description", "expire_time")


class ManageKey:
    """Creates, reads, changes or revokes keys."""

    def __init__(self, keys: KeyService, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def __call__(  # noqa: PLR0911  one return for each action
        self, request: ManageKeyRequest, caller: Caller
    ) -> ManageKeyResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action("create", "get", "list", "update", "rotate", "suspend", "resume", "revoke")
        with under(action):
            match action:
                case "create":
                    return await self._create(request.create, caller)
                case "get":
                    return ManageKeyResponse(get=self._result(await self._keys.get(request.get.key_id)))
                case "list":
                    return await self._list(request.list)
                case "update":
                    return await self._update(request.update, caller)
                case "rotate":
                    return await self._rotate(request.rotate, caller)
                case "suspend":
                    suspended = await self._keys.suspend(caller.name, request.suspend.key_id)
                    return ManageKeyResponse(suspend=self._result(suspended))
                case "resume":
                    resumed = await self._keys.resume(caller.name, request.resume.key_id)
                    return ManageKeyResponse(resume=self._result(resumed))
                case "revoke":
                    revoked = await self._keys.revoke(caller.name, request.revoke.key_id)
                    return ManageKeyResponse(revoke=self._result(revoked))

    async def _create(self, request: ManageKeyRequest.CreateKey, caller: Caller) -> ManageKeyResponse:
        key, api_key = await self._keys.create(caller.name, _draft_from_proto(request))
        message = _key_to_proto(key, self._clock.now_us())
        return ManageKeyResponse(create=ManageKeyResponse.CreatedKey(key=message, secret=str(api_key)))

    async def _list(self, request: ManageKeyRequest.ListKeys) -> ManageKeyResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._keys.list(paging, subject=request.subject, plan=request.plan)
        now_us = self._clock.now_us()
        keys = [_key_to_proto(key, now_us) for key in page.items]
        return ManageKeyResponse(list=ManageKeyResponse.KeyPage(keys=keys, next_page_token=page.next_page_token))

    async def _update(self, request: ManageKeyRequest.UpdateKey, caller: Caller) -> ManageKeyResponse:
        require_message("key", present=request.HasField("key"))
        changes = _changes_from_proto(request)
        with under("key"):
            key = await self._keys.update(caller.name, request.key.key_id, changes, etag=request.key.etag)
        return ManageKeyResponse(update=self._result(key))

    async def _rotate(self, request: ManageKeyRequest.RotateKey, caller: Caller) -> ManageKeyResponse:
        overlap_us = duration_from_proto(request.overlap, "overlap")
        key, api_key = await self._keys.rotate(caller.name, request.key_id, overlap_us=overlap_us)
        message = _key_to_proto(key, self._clock.now_us())
        return ManageKeyResponse(rotate=ManageKeyResponse.RotatedKey(key=message, secret=str(api_key)))

    def _result(self, key: Key) -> ManageKeyResponse.KeyResult:
        return ManageKeyResponse.KeyResult(key=_key_to_proto(key, self._clock.now_us()))


def _key_to_proto(key: Key, now_us: int) -> key_pb2.Key:
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
    )


def _draft_from_proto(message: ManageKeyRequest.CreateKey) -> KeyDraft:
    """The draft of a new key. Raises InvalidArgument."""
    return KeyDraft(
        plan=message.plan,
        subject=message.subject,
        description=message.description,
        expires_us=time_from_proto(message.expire_time, "expire_time") if message.HasField("expire_time") else None,
    )


def _changes_from_proto(message: ManageKeyRequest.UpdateKey) -> KeyChanges:
    """The fields that the mask names; one that is absent from the key is cleared. Raises InvalidArgument."""
    key, paths = message.key, paths_of(message.update_mask, _UPDATABLE)
    changes = KeyChanges()
    if "plan" in paths:
        changes["plan"] = key.plan
    if "description" in paths:
        changes["description"] = key.description
    if "expire_time" in paths:
        changes["expires_us"] = (
            time_from_proto(key.expire_time, "key.expire_time") if key.HasField("expire_time") else None
        )
    return changes
