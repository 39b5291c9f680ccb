"""The endpoint of RateLimitService, without any transport. Both doors call it."""

from collections.abc import AsyncIterator, Iterable, Sequence

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    StreamCheckLimitRequest,
)
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.doors.check_messages import to_check
from ratelimit_service.doors.decision_encoder import DecisionEncoder
from ratelimit_service.doors.explain_messages import explain_check, from_explanation
from ratelimit_service.doors.gathering import gathered
from ratelimit_service.doors.wire import Encoded
from ratelimit_service.errors import InvalidArgument, PermissionDenied
from ratelimit_service.keys.caller import Caller, Role

MAX_BATCH = 256
"""The most checks in one batch, and in one group of a stream."""


class CheckEndpoint:
    """Answers the calls of RateLimitService, and ExplainLimit. Every error that it raises is a ServiceError."""

    def __init__(self, engine: DecisionEngine) -> None:
        self._engine = engine
        self._encoder = DecisionEncoder()

    async def check_limit(self, request: CheckLimitRequest, caller: Caller) -> Encoded:
        """Decide one call. Returns a CheckLimitResponse."""
        if request.key_id:
            _require_gateway(caller)
        return Encoded(self._encoder.encode(await self._engine.check(to_check(request))))

    async def batch_check_limit(self, request: BatchCheckLimitRequest, caller: Caller) -> Encoded:
        """Decide 1 to 256 calls in one trip to the buckets. Returns a BatchCheckLimitResponse in their order."""
        count = len(request.checks)
        if not 1 <= count <= MAX_BATCH:
            raise InvalidArgument.of("checks", f"has {count} entries; send 1 to {MAX_BATCH}")
        return Encoded(b"".join(await self._decide(request.checks, caller)))

    async def stream_check_limit(
        self, requests: AsyncIterator[StreamCheckLimitRequest], caller: Caller
    ) -> AsyncIterator[Encoded]:
        """Decide calls as they come, those that have arrived meanwhile together.

        Gives a StreamCheckLimitResponse for each, in their order.
        """
        async for group in gathered(requests, most=MAX_BATCH):
            for response in await self.answer_group(group, caller):
                yield Encoded(response)

    async def answer_group(self, group: Sequence[StreamCheckLimitRequest], caller: Caller) -> list[bytes]:
        """Decide calls of a stream that have arrived together in one trip to the buckets.

        Returns a StreamCheckLimitResponse for each, in their order.
        """
        return await self._decide([request.check for request in group], caller)

    async def explain_limit(self, request: ExplainLimitRequest) -> ExplainLimitResponse:
        """Say everything that CheckLimit would weigh, without charging."""
        return from_explanation(await self._engine.explain(explain_check(request)), self._encoder)

    async def _decide(self, requests: Iterable[CheckLimitRequest], caller: Caller) -> list[bytes]:
        """Decide each, and give the field that answers it.

        One that its caller may not ask, or that is malformed, answers for itself only.
        """
        checks = [to_check(request) for request in requests]
        if caller.role is Role.GATEWAY or not any(check.key_id for check in checks):
            results = await self._engine.check_all(checks)
        else:
            decided = iter(await self._engine.check_all([check for check in checks if not check.key_id]))
            results = [_not_a_gateway(caller) if check.key_id else next(decided) for check in checks]
        return [self._encoder.encode_result(result) for result in results]


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
