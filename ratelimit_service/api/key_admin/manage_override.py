"""ManageOverride."""

from collections.abc import Sequence

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageOverrideRequest, ManageOverrideResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import no_action, require_message, under
from ratelimit_service.api.key_admin.limit_messages import from_override, to_override
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.overrides import OverrideService, OverrideTarget
from ratelimit_service.management.tokens import Caller, Role


class ManageOverride:
    """Does one thing to the overrides of a key or a subject."""

    def __init__(self, overrides: OverrideService) -> None:
        self._overrides = overrides

    async def __call__(self, request: ManageOverrideRequest, caller: Caller) -> ManageOverrideResponse:
        """Do what the request's action says, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        require(caller, Role.VIEWER if action == "list" else Role.ADMIN)
        if action is None:
            raise no_action("set", "list", "delete")
        target = _to_target(request)
        with under(action):
            match action:
                case "set":
                    require_message("override", present=request.set.HasField("override"))
                    override = to_override(request.set.override, "override")
                    left = await self._overrides.set(caller.name, target, override)
                    return ManageOverrideResponse(set=_result(left))
                case "list":
                    return ManageOverrideResponse(list=_result(await self._overrides.list(target)))
                case "delete":
                    left = await self._overrides.delete(caller.name, target, request.delete.limit)
                    return ManageOverrideResponse(delete=_result(left))


def _to_target(request: ManageOverrideRequest) -> OverrideTarget:
    match request.WhichOneof("target"):
        case "key_id":
            return OverrideTarget(Level.KEY, request.key_id)
        case "subject":
            return OverrideTarget(Level.SUBJECT, request.subject)
        case None:
            raise InvalidArgument.of("target", "is missing; set key_id or subject")


def _result(overrides: Sequence[Override]) -> ManageOverrideResponse.Overrides:
    return ManageOverrideResponse.Overrides(overrides=[from_override(override) for override in overrides])
