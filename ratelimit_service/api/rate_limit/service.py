"""The endpoint of RateLimitService, without any transport. Both transports call it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ExplainLimitRequest, ExplainLimitResponse
from ratelimit_service.api.key_admin.explain_limit import explain_check, from_explanation
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.api.rate_limit.reader import MAX_BATCH, CheckReader
from ratelimit_service.api.wire import Encoded
from ratelimit_service.decision.engine import Check, DecisionEngine, PreparedCheck
from ratelimit_service.errors import PermissionDenied
from ratelimit_service.management.tokens import Caller, Role

T = TypeVar("T")


async def in_groups(items: AsyncIterator[T], *, most: int) -> AsyncIterator[list[T]]:
    """Yield what has arrived since the last group, 1 to MOST items, in order, without waiting for more.

    Reading stops while MOST items are waiting, so that a fast sender is held back by the transport. An error of ITEMS
    is raised after all that came before it.
    """
    waiting: list[T] = []
    changed = asyncio.Condition()
    ended = False

    async def read() -> None:
        nonlocal ended
        try:
            async for item in items:
                async with changed:
                    await changed.wait_for(lambda: len(waiting) < most)
                    waiting.append(item)
                    changed.notify_all()
        finally:
            ended = True
            async with changed:
                changed.notify_all()

    reader = asyncio.create_task(read())
    try:
        while True:
            async with changed:
                await changed.wait_for(lambda: waiting or ended)
                group = waiting.copy()
                waiting.clear()
                changed.notify_all()
            if not group:
                break
            yield group
        await reader
    finally:
        reader.cancel()
        await asyncio.wait((reader,))
        if not reader.cancelled():
            reader.exception()  # nobody is left to tell


class RateLimitService:
    """Answers the calls of RateLimitService, and ExplainLimit. Every error that it raises is a ServiceError.

    Checks are those that `reader` has read in the same turn of the event loop.
    """

    def __init__(self, engine: DecisionEngine) -> None:
        self.reader = CheckReader(engine)
        self._engine = engine
        self._encoder = DecisionEncoder()

    async def check_limit(self, check: Check | PreparedCheck, caller: Caller) -> Encoded:
        """Decide one call. Returns a CheckLimitResponse."""
        if _is_for_gateways(check):
            _require_gateway(caller)
        return Encoded(self._encoder.encode(await self._engine.check(check)))

    async def batch_check_limit(self, checks: Sequence[Check | PreparedCheck], caller: Caller) -> Encoded:
        """Decide 1 to 256 calls in one trip to the buckets. Returns a BatchCheckLimitResponse in their order."""
        return Encoded(b"".join(await self.answer_group(checks, caller)))

    async def stream_check_limit(self, messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[Encoded]:
        """Decide calls as they come, those that have arrived meanwhile together.

        MESSAGES are StreamCheckLimitRequests. Gives a StreamCheckLimitResponse for each, in their order.
        """
        async for group in in_groups(messages, most=MAX_BATCH):
            checks, fault = self.reader.streamed(group)
            for response in await self.answer_group(checks, caller):
                yield Encoded(response)
            if fault is not None:
                raise fault

    async def answer_group(self, checks: Sequence[Check | PreparedCheck], caller: Caller) -> list[bytes]:
        """Decide calls in one trip to the buckets.

        One that its caller may not ask, or that is malformed, answers for itself only. Returns for each, in their
        order, a StreamCheckLimitResponse, which is a field of a BatchCheckLimitResponse, too.
        """
        if caller.role is Role.GATEWAY or not any(map(_is_for_gateways, checks)):
            results = await self._engine.check_all(checks)
        else:
            decided = iter(await self._engine.check_all([check for check in checks if not _is_for_gateways(check)]))
            results = [_not_a_gateway(caller) if _is_for_gateways(check) else next(decided) for check in checks]
        return [self._encoder.encode_result(result) for result in results]

    async def explain_limit(self, request: ExplainLimitRequest) -> ExplainLimitResponse:
        """Say everything that CheckLimit would weigh, without charging."""
        return from_explanation(await self._engine.explain(explain_check(request)), self._encoder)


def _is_for_gateways(check: Check | PreparedCheck) -> bool:
    """Whether it names a key in place of the secret."""
    return isinstance(check, Check) and bool(check.key_id)


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
