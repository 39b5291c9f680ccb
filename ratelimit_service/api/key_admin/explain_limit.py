"""ExplainLimit, and explanations as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import limit_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.limit_messages import limit_to_proto
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.explanation import ExplainedLimit, Explanation
from ratelimit_service.decision.limit import Level
from ratelimit_service.management.tokens import Caller, Role

_LEVELS = {
    Level.PLAN: limit_pb2.LimitLevel.PLAN,
    Level.SUBJECT: limit_pb2.LimitLevel.SUBJECT,
    Level.KEY: limit_pb2.LimitLevel.KEY,
}


class ExplainLimit:
    """Reports every limit that CheckLimit would evaluate, without charging."""

    def __init__(self, engine: DecisionEngine) -> None:
        self._engine = engine
        self._encoder = DecisionEncoder()

    async def __call__(self, request: ExplainLimitRequest, caller: Caller) -> ExplainLimitResponse:
        """Explain a check, if the caller's role allows it. An absent cost is 1. Raises ServiceError."""
        require(caller, Role.VIEWER)
        cost = request.cost if request.HasField("cost") else 1
        check = Check(request.api_key, request.key_id, request.resource, cost)
        return _explanation_to_proto(await self._engine.explain(check), self._encoder)


def _explanation_to_proto(explanation: Explanation, encoder: DecisionEncoder) -> ExplainLimitResponse:
    return ExplainLimitResponse(
        decision=CheckLimitResponse.FromString(encoder.encode(explanation.decision)),
        plan_version=explanation.policy.plan_version if explanation.policy else 0,
        limits=[_explained_to_proto(explained) for explained in explanation.limits()],
    )


def _explained_to_proto(explained: ExplainedLimit) -> ExplainLimitResponse.ConsideredLimit:
    return ExplainLimitResponse.ConsideredLimit(
        limit=limit_to_proto(explained.limit),
        level=_LEVELS[explained.level],
        applies=not explained.why_not,
        why_not=explained.why_not,
        bucket=explained.bucket,
    )
