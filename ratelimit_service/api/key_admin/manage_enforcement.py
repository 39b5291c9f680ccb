"""ManageEnforcement, and the switch of all limits as a message of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import enforcement_pb2 as pb
from ratelimit_service.api.key_admin.fields import (
    duration_from_proto,
    missing_action,
    require_message,
    time_to_proto,
    under,
)
from ratelimit_service.api.key_admin.roles import check_role
from ratelimit_service.decision.enforcement import Switch
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.enforcement import EnforcementService
from ratelimit_service.management.tokens import Caller


class ManageEnforcement:
    """Turns the switch of all limits, or reads it."""

    def __init__(self, enforcement: EnforcementService, clock: Clock) -> None:
        self._enforcement = enforcement
        self._clock = clock

    async def __call__(self, request: pb.ManageEnforcementRequest, caller: Caller) -> pb.ManageEnforcementResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        if request.validate_only:
            request.validate_only = False
            return await ManageEnforcement(self._enforcement.rehearsal(), self._clock)(request, caller)
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action("turn_off", "turn_on", "get")
        with under(action):
            match action:
                case "turn_off":
                    turn_off = request.turn_off
                    require_message("duration", present=turn_off.HasField("duration"))
                    duration_us = duration_from_proto(turn_off.duration, "duration")
                    switch = await self._enforcement.turn_off(caller.name, duration_us, comment=turn_off.comment)
                case "turn_on":
                    switch = await self._enforcement.turn_on(caller.name)
                case "get":
                    switch = await self._enforcement.get()
        return pb.ManageEnforcementResponse(enforcement=_switch_to_proto(switch, self._clock.now_us()))


def _switch_to_proto(switch: Switch, now_us: int) -> pb.Enforcement:
    off = switch.is_off(now_us)
    return pb.Enforcement(
        off=off,
        off_until=time_to_proto(switch.off_until_us) if off else None,
        actor=switch.actor,
        comment=switch.comment,
        update_time=time_to_proto(switch.changed_us) if switch.changed_us else None,
    )
