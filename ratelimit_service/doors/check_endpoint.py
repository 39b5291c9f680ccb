"""The endpoint of RateLimitService, without any transport. Both doors call it."""

from collections.abc import AsyncIterator, Iterable, Sequence

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    BatchCheckLimitResponse,
    CheckLimitRequest,
    CheckLimitResponse,
    CheckResult,
    StreamCheckLimitRequest,
    StreamCheckLimitResponse,
)
from ratelimit_service.decision.decision import Decision
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.doors.check_messages import DecisionMessages, to_check
from ratelimit_service.doors.explain_messages import explain_check, from_explanation
from ratelimit_service.doors.gathering import gathered
from ratelimit_service.errors import InvalidArgument, PermissionDenied, ServiceError
from ratelimit_service.keys.caller import Caller, Role

MAX_BATCH = 256
"""The most checks in one batch, and in one group of a stream."""


class CheckEndpoint:
    """Answers the calls of RateLimitService, and ExplainLimit. Every error that it raises is a ServiceError."""

    def __init__(self, engine: DecisionEngine) -> None:
        self._engine = engine
        self._messages = DecisionMessages()

    async def check_limit(self, request: CheckLimitRequest, caller: Caller) -> CheckLimitResponse:
        """Decide one call."""
        if request.key_id:
            _require_gateway(caller)
        return self._messages.from_decision(await self._engine.check(to_check(request)))

    async def batch_check_limit(self, request: BatchCheckLimitRequest, caller: Caller) -> BatchCheckLimitResponse:
        """Decide 1 to 256 calls in one trip to the buckets, and answer in their order."""
        count = len(request.checks)
        if not 1 <= count <= MAX_BATCH:
            raise InvalidArgument.of("checks", f"has {count} entries; send 1 to {MAX_BATCH}")
        return BatchCheckLimitResponse(results=await self._decide(request.checks, caller))

    async def stream_check_limit(
        self, requests: AsyncIterator[StreamCheckLimitRequest], caller: Caller
    ) -> AsyncIterator[StreamCheckLimitResponse]:
        """Decide calls as they come, those that have arrived meanwhile together, and answer in their order."""
        async for group in gathered(requests, most=MAX_BATCH):
            for response in await self.answer_group(group, caller):
                yield response

    async def answer_group(
        self, group: Sequence[StreamCheckLimitRequest], caller: Caller
    ) -> list[StreamCheckLimitResponse]:
        """Decide calls of a stream that have arrived together in one trip to the buckets, and answer in their order."""
        results = await self._decide([request.check for request in group], caller)
        return [StreamCheckLimitResponse(result=result) for result in results]

    async def explain_limit(self, request: ExplainLimitRequest) -> ExplainLimitResponse:
        """Say everything that CheckLimit would weigh, without charging."""
        return from_explanation(await self._engine.explain(explain_check(request)), self._messages)

    async def _decide(self, requests: Iterable[CheckLimitRequest], caller: Caller) -> list[CheckResult]:
        """Decide each; one that its caller may not ask, or that is malformed, answers for itself only."""
        refused: list[PermissionDenied | None] = []
        checks: list[Check] = []
        for request in requests:
            if request.key_id and caller.role is not Role.GATEWAY:
                refused.append(_not_a_gateway(caller))
            else:
                refused.append(None)
                checks.append(to_check(request))
        decided = iter(await self._engine.check_all(checks))
        results: list[Decision | ServiceError] = [fault or next(decided) for fault in refused]
        return [self._messages.from_result(result) for result in results]


def _require_gateway(caller: Caller) -> None:
    if caller.role is not Role.GATEWAY:
        raise _not_a_gateway(caller)


def _not_a_gateway(caller: Caller) -> PermissionDenied:
    role = caller.role.value if caller.role else "none"
    return PermissionDenied(
        f"key_id may be sent in place of api_key only with a token of role gateway; this call's role is {role}",
        reason="ROLE_INSUFFICIENT",
        metadata={"role": role, "needed": Role.GATEWAY.value},
    )
