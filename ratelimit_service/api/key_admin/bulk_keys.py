"""The bulk actions of ManageKey: a result for each key."""

from collections.abc import Sequence

from ratelimit_service._gen.ratelimit.v1.errors_pb2 import ErrorReason
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service.api.key_admin.key_messages import draft_from_proto, key_to_proto
from ratelimit_service.api.status import clip
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import InvalidArgument, ServiceError, release
from ratelimit_service.management.bulk_keys import BulkKeyService
from ratelimit_service.management.key import Key, KeyDraft
from ratelimit_service.management.tokens import Caller


class BulkKeys:
    """Creates keys, or changes the state of keys, up to 1,000 in a call."""

    def __init__(self, keys: BulkKeyService, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    def rehearsal(self) -> "BulkKeys":
        """The same, whose changes are checked and not made."""
        return BulkKeys(self._keys.rehearsal(), self._clock)

    async def create(self, request: ManageKeyRequest.BulkCreateKeys, caller: Caller) -> ManageKeyResponse:
        """Create keys. Raises ServiceError if no key was created because of it."""
        now_us = self._clock.now_us()
        response = ManageKeyResponse(bulk_create=ManageKeyResponse.BulkCreatedKeys())
        for made in await self._keys.create(caller.name, [_draft(message) for message in request.keys]):
            result = response.bulk_create.results.add()
            if isinstance(made, ServiceError):
                result.error.CopyFrom(_error(made))
            else:
                key, api_key = made
                result.created.key.CopyFrom(key_to_proto(key, now_us))
                result.created.secret = str(api_key or "")
        return response

    async def suspend(self, request: ManageKeyRequest.BulkKeys, caller: Caller) -> ManageKeyResponse:
        """Suspend keys. Raises ServiceError if no key was changed because of it."""
        changed = await self._keys.suspend(caller.name, request.key_ids)
        return ManageKeyResponse(bulk_suspend=self._results(changed))

    async def resume(self, request: ManageKeyRequest.BulkKeys, caller: Caller) -> ManageKeyResponse:
        """Resume keys. Raises ServiceError if no key was changed because of it."""
        changed = await self._keys.resume(caller.name, request.key_ids)
        return ManageKeyResponse(bulk_resume=self._results(changed))

    async def revoke(self, request: ManageKeyRequest.BulkKeys, caller: Caller) -> ManageKeyResponse:
        """Revoke keys. Raises ServiceError if no key was changed because of it."""
        changed = await self._keys.revoke(caller.name, request.key_ids)
        return ManageKeyResponse(bulk_revoke=self._results(changed))

    def _results(self, changed: Sequence[Key | ServiceError]) -> ManageKeyResponse.BulkResults:
        now_us = self._clock.now_us()
        results = ManageKeyResponse.BulkResults()
        for one in changed:
            result = results.results.add()
            if isinstance(one, ServiceError):
                result.error.CopyFrom(_error(one))
            else:
                result.key.CopyFrom(key_to_proto(one, now_us))
        return results


def _draft(message: ManageKeyRequest.CreateKey) -> KeyDraft | InvalidArgument:
    try:
        return draft_from_proto(message)
    except InvalidArgument as error:
        return error


def _error(error: ServiceError) -> ManageKeyResponse.BulkError:
    release(error)
    return ManageKeyResponse.BulkError(
        reason=ErrorReason.Value(error.reason),
        message=clip(error.message),
        metadata={name: clip(value) for name, value in error.metadata.items()},
    )
