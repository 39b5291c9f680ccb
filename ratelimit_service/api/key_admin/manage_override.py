"""ManageOverride."""

from collections.abc import Sequence

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageOverrideRequest, ManageOverrideResponse
from ratelimit_service.api.key_admin.fields import missing_action, require_message, under
from ratelimit_service.api.key_admin.limit_messages import override_from_proto, override_to_proto
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.api.key_admin.roles import check_role
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.overrides import OverrideService, OverrideTarget
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller
from ratelimit_service.usage.previews import ChangePreviews


class ManageOverride:
    """Sets, lists or deletes the overrides of a key or a subject."""

    def __init__(self, overrides: OverrideService, previews: ChangePreviews) -> None:
        self._overrides = overrides
        self._previews = previews

    async def __call__(self, request: ManageOverrideRequest, caller: Caller) -> ManageOverrideResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        if request.validate_only:
            request.validate_only = False
            return await ManageOverride(self._overrides.rehearsal(), self._previews)(request, caller)
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action("set", "list", "delete", "list_all")
        if action == "list_all":
            with under(action):
                return await self._list_all(request.list_all)
        async with self._previews.added():
            return await self._perform(action, request, caller)

    async def _perform(self, action: str, request: ManageOverrideRequest, caller: Caller) -> ManageOverrideResponse:
        target = _target_from_proto(request)
        with under(action):
            match action:
                case "set":
                    require_message("override", present=request.set.HasField("override"))
                    override = override_from_proto(request.set.override, "override")
                    overrides = await self._overrides.set(
                        caller.name, target, override, confirmation=request.set.confirmation
                    )
                    return ManageOverrideResponse(set=_result(overrides))
                case "list":
                    return ManageOverrideResponse(list=_result(await self._overrides.list(target)))
                case _:
                    overrides = await self._overrides.delete(
                        caller.name, target, request.delete.limit, confirmation=request.delete.confirmation
                    )
                    return ManageOverrideResponse(delete=_result(overrides))

    async def _list_all(self, request: ManageOverrideRequest.ListAllOverrides) -> ManageOverrideResponse:
        paging = Paging(request.page_size, request.page_token)
        overrides, token = await read_page(paging, self._overrides.list_all, _set_for)
        page = ManageOverrideResponse.OverridePage(overrides=overrides, next_page_token=token)
        return ManageOverrideResponse(list_all=page)


def _set_for(found: tuple[OverrideTarget, Override]) -> ManageOverrideResponse.OverridePage.SetFor:
    target, override = found
    by_key = target.level is Level.KEY
    return ManageOverrideResponse.OverridePage.SetFor(
        key_id=target.name if by_key else None,
        subject=None if by_key else target.name,
        override=override_to_proto(override),
    )


def _target_from_proto(request: ManageOverrideRequest) -> OverrideTarget:
    match request.WhichOneof("target"):
        case "key_id":
            return OverrideTarget(Level.KEY, request.key_id)
        case "subject":
            return OverrideTarget(Level.SUBJECT, request.subject)
        case None:
            raise InvalidArgument.of("target", "is missing; set key_id or subject")


def _result(overrides: Sequence[Override]) -> ManageOverrideResponse.Overrides:
    return ManageOverrideResponse.Overrides(overrides=[override_to_proto(override) for override in overrides])
