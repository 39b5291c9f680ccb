"""SimulatePlan, and simulations as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1.simulation_pb2 import SimulatePlanRequest, SimulatePlanResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import duration_to_proto, time_from_proto, time_to_proto
from ratelimit_service.api.key_admin.limit_messages import limits_from_proto
from ratelimit_service.management.tokens import Caller, Role
from ratelimit_service.usage.query_range import Level
from ratelimit_service.usage.replay import Effect
from ratelimit_service.usage.simulation import Simulation, SimulationRequest, SimulationService

_LEVELS = {Level.MINUTE: SimulatePlanResponse.MINUTE, Level.HOUR: SimulatePlanResponse.HOUR}


class SimulatePlan:
    """Replays counted calls against other limits."""

    def __init__(self, simulations: SimulationService) -> None:
        self._simulations = simulations

    async def __call__(self, request: SimulatePlanRequest, caller: Caller) -> SimulatePlanResponse:
        """Simulate, if the caller's role allows it. Raises ServiceError."""
        require(caller, Role.VIEWER)
        start_us = time_from_proto(request.start_time, "start_time") if request.HasField("start_time") else None
        end_us = time_from_proto(request.end_time, "end_time") if request.HasField("end_time") else None
        limits = limits_from_proto(request.limits, "limits")
        simulation = await self._simulations.simulate(
            SimulationRequest(request.name, limits, start_us, end_us, request.top)
        )
        return _simulation_to_proto(simulation)


def _simulation_to_proto(found: Simulation) -> SimulatePlanResponse:
    return SimulatePlanResponse(
        start_time=time_to_proto(found.start_us),
        end_time=time_to_proto(found.end_us),
        effect=_effect_to_proto(found.effect),
        limits=[
            SimulatePlanResponse.LimitEffect(limit=each.name, shadow=each.shadow, effect=_effect_to_proto(each.effect))
            for each in found.limits
        ],
        keys=[
            SimulatePlanResponse.KeyEffect(
                key_id=each.key_id,
                subject=each.subject,
                effect=_effect_to_proto(each.effect),
                first_time=each.first_time,
            )
            for each in found.keys
        ],
        points=[
            SimulatePlanResponse.Point(start_time=time_to_proto(each.start_us), effect=_effect_to_proto(each.effect))
            for each in found.points
        ],
        step=duration_to_proto(found.step_us),
        level=_LEVELS[found.level],
        key_count=found.keys_replayed,
        first_time=found.first_time,
        perhaps_first_time=found.perhaps_first_time,
        complete=found.complete,
        notes=found.notes,
    )


def _effect_to_proto(effect: Effect) -> SimulatePlanResponse.Effect:
    return SimulatePlanResponse.Effect(calls=effect.calls, denied=effect.denied, best=effect.best, worst=effect.worst)
