"""What the methods of RateLimitService do, on any transport."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import TypeAlias, TypeVar

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    ExtendHoldResponse,
    SettleLimitRequest,
)
from ratelimit_service.api.authentication import deferred_token, require, require_known
from ratelimit_service.api.lasting import LASTS_SECONDS, Lasting
from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.api.rate_limit.reader import CheckReader, Extension, NewCheck
from ratelimit_service.api.request_cache import RequestCache
from ratelimit_service.api.reserving import Reserving
from ratelimit_service.api.wire import Encoded
from ratelimit_service.decision.engine import Check, DecisionEngine, PreparedCheck, is_charged_afterwards
from ratelimit_service.decision.grants import GrantCall, Grants
from ratelimit_service.decision.outcome import UNDECIDED, Decision
from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.reason import Source
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.errors import PermissionDenied, ServiceError
from ratelimit_service.management.tokens import UNDECIDED as TOKEN_UNDECIDED
from ratelimit_service.management.tokens import Caller, Role

DecideGroup: TypeAlias = Callable[[Sequence[NewCheck | PreparedCheck], Caller, float | None], Awaitable[list[bytes]]]
"""Decides checks of a caller as `RateLimitService.decide_group` does."""

P = TypeVar("P", bound=PreparedCheck | Decision | ServiceError)


class RateLimitService:
    """The methods of RateLimitService. Every error that they raise is a ServiceError.

    A deadline is the monotonic time in seconds until which the caller waits, None if it waits for any time.

    Checks are those that `reader` has read in the same iteration of the event loop. At most `cached_requests` are kept
    prepared, each with its policy and in some 900 bytes more.
    """

    def __init__(
        self,
        engine: DecisionEngine,
        settlements: Settlements,
        grants: Grants,
        clock: Clock,
        *,
        cached_requests: int,
    ) -> None:
        self._engine = engine
        self._settlements = settlements
        self.grants = grants
        self._cache: RequestCache[PreparedCheck] = RequestCache(clock, cached_requests)
        self.encoder = DecisionEncoder()
        self.reader = CheckReader(self._cache)
        self.streams = OpenStreams()
        """The streams that are open, of checks and of grants."""

    async def check_limit(
        self, check: NewCheck | PreparedCheck, caller: Caller, deadline: float | None = None
    ) -> Encoded:
        """Decide one call, of which the caller waits until DEADLINE. Returns a CheckLimitResponse."""
        if caller is TOKEN_UNDECIDED:
            if _is_charged_afterwards(check):
                raise deferred_token()
            return Encoded(self.encoder.encode(UNDECIDED))
        prepared = check if isinstance(check, PreparedCheck) else await self._prepare(check, caller, deadline)
        decision = await self._engine.decide(prepared, deadline)
        data, reservation_id = self.encoder.encode(decision), decision.reservation_id
        if reservation_id and isinstance(prepared, PreparedCheck) and not prepared.charge.request:
            return Reserving(data, partial(self._settlements.abandon, reservation_id))
        if decision.source is Source.MEMORY and prepared is check:  # the same bytes have come before
            until = min(self._engine.holds_until(prepared), monotonic() + LASTS_SECONDS)
            return Lasting(data, until, partial(self._engine.count_again, prepared, decision))
        return Encoded(data)

    async def settle_limit(self, request: SettleLimitRequest, caller: Caller, deadline: float | None = None) -> Encoded:
        """Settle a reservation. Returns a SettleLimitResponse."""
        require_known(caller)
        settlement = await self._settlements.settle(request.reservation_id, request.actual_cost, deadline)
        return Encoded(self.encoder.encode_settlement(settlement))

    async def extend_hold(self, extension: Extension, caller: Caller, deadline: float | None = None) -> Encoded:
        """Hold a reservation for longer. Returns an ExtendHoldResponse."""
        require_known(caller)
        response = ExtendHoldResponse()
        held_us = await self._settlements.extend(extension.reservation_id, extension.hold_us, deadline)
        response.hold.FromMicroseconds(held_us)
        return Encoded(response.SerializeToString())

    async def grant(self, call: GrantCall, caller: Caller, deadline: float | None = None) -> Encoded:
        """Return grants, and make one, for a gateway that decides calls by itself. Returns a GrantResponse."""
        require_known(caller)
        require(caller, Role.GATEWAY)
        return Encoded(self.encoder.encode_grant(await self.grants.grant(call, deadline)))

    async def batch_check_limit(
        self, checks: Sequence[NewCheck | PreparedCheck], caller: Caller, deadline: float | None = None
    ) -> Encoded:
        """Decide 1 to 256 calls in one round trip to the buckets. Returns a BatchCheckLimitResponse in their order."""
        return Encoded(b"".join(await self.decide_group(checks, caller, deadline)))

    async def decide_group(
        self, checks: Sequence[NewCheck | PreparedCheck], caller: Caller, deadline: float | None = None
    ) -> list[bytes]:
        """Decide calls, such as those that arrived together on a stream, in one round trip to the buckets.

        An error of one check, such as a missing permission, is the result of that check only. Returns for each, in
        their order, a StreamCheckLimitResponse, which is also a field of a BatchCheckLimitResponse.
        """
        if caller is TOKEN_UNDECIDED:
            return [
                self.encoder.encode_result(deferred_token() if _is_charged_afterwards(check) else UNDECIDED)
                for check in checks
            ]
        results = await self._engine.decide_all(await self._prepare_all(checks, caller, deadline), deadline)
        return [self.encoder.encode_result(result) for result in results]

    async def _prepare(self, new: NewCheck, caller: Caller, deadline: float | None) -> PreparedCheck | Decision:
        if not _may_check(new.check, caller):
            raise _gateway_only(caller)
        return self._cached(new, await self._engine.prepare(new.check, deadline))

    async def _prepare_all(
        self, checks: Sequence[NewCheck | PreparedCheck], caller: Caller, deadline: float | None
    ) -> list[PreparedCheck | Decision | ServiceError]:
        new = [check for check in checks if isinstance(check, NewCheck)]
        if not new:
            return [check for check in checks if isinstance(check, PreparedCheck)]
        allowed = [check.check for check in new if _may_check(check.check, caller)]
        in_order = iter(await self._engine.prepare_all(allowed, deadline))
        prepared: list[PreparedCheck | Decision | ServiceError] = []
        for check in checks:
            if isinstance(check, PreparedCheck):
                prepared.append(check)
            elif _may_check(check.check, caller):
                prepared.append(self._cached(check, next(in_order)))
            else:
                prepared.append(_gateway_only(caller))
        return prepared

    def _cached(self, new: NewCheck, prepared: P) -> P:
        """PREPARED, which is cached if the same bytes will always be prepared to it."""
        if isinstance(prepared, PreparedCheck) and new.check.api_key and not new.check.request_id:
            self._cache.put(new.digest, (prepared.policy.validity,), prepared, prepared.policy.key_id)
        return prepared


def _is_charged_afterwards(check: NewCheck | PreparedCheck) -> bool:
    return check.charge.afterwards if isinstance(check, PreparedCheck) else is_charged_afterwards(check.check)


def _may_check(check: Check, caller: Caller) -> bool:
    """Only a gateway may send the id of a key in place of the secret."""
    return not check.key_id or caller.role is Role.GATEWAY


def _gateway_only(caller: Caller) -> PermissionDenied:
    role = caller.role.value if caller.role else "none"
    return PermissionDenied(
        f"key_id may be sent in place of api_key only with a token of role gateway; this call's role is {role}",
        reason="ROLE_INSUFFICIENT",
        metadata={"role": role, "needed": Role.GATEWAY.value},
    )
