"""ManageKey."""

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service.decision.ports import Clock
from ratelimit_service.doors.admin.fields import no_action, require_message, under
from ratelimit_service.doors.admin.key_messages import from_key, to_changes, to_draft
from ratelimit_service.doors.admin.times import to_duration_us
from ratelimit_service.doors.authentication import require
from ratelimit_service.keys.key import Key
from ratelimit_service.keys.key_service import KeyService
from ratelimit_service.keys.page import Paging
from ratelimit_service.keys.token import Caller, Role

_READS = frozenset({"get", "list"})


class ManageKey:
    """Does one thing to a key."""

    def __init__(self, keys: KeyService, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def __call__(  # noqa: PLR0911  one return for each action
        self, request: ManageKeyRequest, caller: Caller
    ) -> ManageKeyResponse:
        """Do what the request's action says, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        require(caller, Role.VIEWER if action in _READS else Role.ADMIN)
        if action is None:
            raise no_action("create", "get", "list", "update", "rotate", "suspend", "resume", "revoke")
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
        key, api_key = await self._keys.create(caller.name, to_draft(request))
        message = from_key(key, self._clock.now_us())
        return ManageKeyResponse(create=ManageKeyResponse.CreatedKey(key=message, secret=str(api_key)))

    async def _list(self, request: ManageKeyRequest.ListKeys) -> ManageKeyResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._keys.list(paging, subject=request.subject, plan=request.plan)
        now_us = self._clock.now_us()
        keys = [from_key(key, now_us) for key in page.items]
        return ManageKeyResponse(list=ManageKeyResponse.KeyPage(keys=keys, next_page_token=page.next_page_token))

    async def _update(self, request: ManageKeyRequest.UpdateKey, caller: Caller) -> ManageKeyResponse:
        require_message("key", present=request.HasField("key"))
        changes = to_changes(request)
        with under("key"):
            key = await self._keys.update(caller.name, request.key.key_id, changes, etag=request.key.etag)
        return ManageKeyResponse(update=self._result(key))

    async def _rotate(self, request: ManageKeyRequest.RotateKey, caller: Caller) -> ManageKeyResponse:
        overlap_us = to_duration_us("overlap", request.overlap)
        key, api_key = await self._keys.rotate(caller.name, request.key_id, overlap_us=overlap_us)
        message = from_key(key, self._clock.now_us())
        return ManageKeyResponse(rotate=ManageKeyResponse.RotatedKey(key=message, secret=str(api_key)))

    def _result(self, key: Key) -> ManageKeyResponse.KeyResult:
        return ManageKeyResponse.KeyResult(key=from_key(key, self._clock.now_us()))
