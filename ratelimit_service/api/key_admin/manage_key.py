"""ManageKey, and keys as messages of `ratelimit.v1`."""

from collections.abc import Awaitable
from typing import Final

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service.api.key_admin.bulk_keys import BulkKeys
from ratelimit_service.api.key_admin.fields import (
    duration_from_proto,
    missing_action,
    require_message,
    under,
)
from ratelimit_service.api.key_admin.key_messages import (
    changes_from_proto,
    draft_from_proto,
    filter_from_proto,
    key_to_proto,
)
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.api.key_admin.roles import check_role
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.key import Key
from ratelimit_service.management.keys import KeyService
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller

_ACTIONS: Final = tuple(field.name for field in ManageKeyRequest.DESCRIPTOR.oneofs_by_name["action"].fields)


class ManageKey:
    """Creates, reads, changes or revokes keys."""

    def __init__(self, keys: KeyService, bulk: BulkKeys, clock: Clock) -> None:
        self._keys = keys
        self._bulk = bulk
        self._clock = clock

    async def __call__(self, request: ManageKeyRequest, caller: Caller) -> ManageKeyResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        if request.validate_only:
            request.validate_only = False
            rehearsal = ManageKey(self._keys.rehearsal(), self._bulk.rehearsal(), self._clock)
            return _without_secrets(await rehearsal(request, caller))
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action(*_ACTIONS)
        with under(action):
            return await self._perform(request, caller)

    def _perform(  # noqa: C901, PLR0911, PLR0912  one return for each action
        self, request: ManageKeyRequest, caller: Caller
    ) -> Awaitable[ManageKeyResponse]:
        match request.WhichOneof("action"):
            case "create":
                return self._create(request.create, caller)
            case "get":
                return self._get(request.get)
            case "list":
                return self._list(request.list)
            case "update":
                return self._update(request.update, caller)
            case "rotate":
                return self._rotate(request.rotate, caller)
            case "suspend":
                return self._suspend(request.suspend, caller)
            case "resume":
                return self._resume(request.resume, caller)
            case "revoke":
                return self._revoke(request.revoke, caller)
            case "bulk_create":
                return self._bulk.create(request.bulk_create, caller)
            case "bulk_suspend":
                return self._bulk.suspend(request.bulk_suspend, caller)
            case "bulk_resume":
                return self._bulk.resume(request.bulk_resume, caller)
            case "bulk_revoke":
                return self._bulk.revoke(request.bulk_revoke, caller)
            case None:
                raise missing_action(*_ACTIONS)

    async def _create(self, request: ManageKeyRequest.CreateKey, caller: Caller) -> ManageKeyResponse:
        key, api_key = await self._keys.create(caller.name, draft_from_proto(request))
        message = key_to_proto(key, self._clock.now_us())
        return ManageKeyResponse(create=ManageKeyResponse.CreatedKey(key=message, secret=str(api_key or "")))

    async def _get(self, request: ManageKeyRequest.GetKey) -> ManageKeyResponse:
        return ManageKeyResponse(get=self._result(await self._keys.get(request.key_id)))

    async def _suspend(self, request: ManageKeyRequest.SuspendKey, caller: Caller) -> ManageKeyResponse:
        return ManageKeyResponse(suspend=self._result(await self._keys.suspend(caller.name, request.key_id)))

    async def _resume(self, request: ManageKeyRequest.ResumeKey, caller: Caller) -> ManageKeyResponse:
        return ManageKeyResponse(resume=self._result(await self._keys.resume(caller.name, request.key_id)))

    async def _revoke(self, request: ManageKeyRequest.RevokeKey, caller: Caller) -> ManageKeyResponse:
        return ManageKeyResponse(revoke=self._result(await self._keys.revoke(caller.name, request.key_id)))

    async def _list(self, request: ManageKeyRequest.ListKeys) -> ManageKeyResponse:
        filters, now_us = filter_from_proto(request), self._clock.now_us()
        keys, token = await read_page(
            Paging(request.page_size, request.page_token),
            lambda part: self._keys.list(part, filters),
            lambda key: key_to_proto(key, now_us),
        )
        return ManageKeyResponse(list=ManageKeyResponse.KeyPage(keys=keys, next_page_token=token))

    async def _update(self, request: ManageKeyRequest.UpdateKey, caller: Caller) -> ManageKeyResponse:
        require_message("key", present=request.HasField("key"))
        changes = changes_from_proto(request)
        with under("key"):
            key = await self._keys.update(caller.name, request.key.key_id, changes, etag=request.key.etag)
        return ManageKeyResponse(update=self._result(key))

    async def _rotate(self, request: ManageKeyRequest.RotateKey, caller: Caller) -> ManageKeyResponse:
        overlap_us = duration_from_proto(request.overlap, "overlap")
        key, api_key = await self._keys.rotate(caller.name, request.key_id, overlap_us=overlap_us)
        message = key_to_proto(key, self._clock.now_us())
        return ManageKeyResponse(rotate=ManageKeyResponse.RotatedKey(key=message, secret=str(api_key)))

    def _result(self, key: Key) -> ManageKeyResponse.KeyResult:
        return ManageKeyResponse.KeyResult(key=key_to_proto(key, self._clock.now_us()))


def _without_secrets(response: ManageKeyResponse) -> ManageKeyResponse:
    """RESPONSE to what was only validated: its secrets are those of no key."""
    if response.HasField("create"):
        response.create.secret = ""
    if response.HasField("rotate"):
        response.rotate.secret = ""
    for result in response.bulk_create.results if response.HasField("bulk_create") else ():
        if result.HasField("created"):
            result.created.secret = ""
    return response
