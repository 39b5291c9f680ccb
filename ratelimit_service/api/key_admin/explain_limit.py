"""ExplainLimit, and explanations as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import limit_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.limit_messages import limit_to_proto
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.decision.engine import Check, DecisionEngine, Explanation
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.policy import Considered
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
    buckets = {rule.limit.name: rule.bucket.name for rule in explanation.selection.rules}
    return ExplainLimitResponse(
        decision=CheckLimitResponse.FromString(encoder.encode(explanation.decision)),
        plan_version=explanation.policy.plan_version if explanation.policy else 0,
        limits=[_considered_to_proto(considered, buckets) for considered in explanation.considered],
    )


def _considered_to_proto(considered: Considered, buckets: dict[str, str]) -> ExplainLimitResponse.ConsideredLimit:
    limit, level, why_not = considered
    applies = not why_not and limit.name in buckets
    return ExplainLimitResponse.ConsideredLimit(
        limit=limit_to_proto(limit),
        level=_LEVELS[level],
        applies=applies,
        why_not=why_not or ("" if applies else "resource"),
        bucket=buckets[limit.name] if applies else "",
    )
