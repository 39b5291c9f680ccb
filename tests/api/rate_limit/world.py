"""RateLimitService over stores in memory, for tests."""

from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, record
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    BatchCheckLimitResponse,
    CheckLimitRequest,
    CheckLimitResponse,
    CheckResult,
)
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.grants import Grants
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.management.tokens import ANONYMOUS, Caller


class World:
    """A service with its surroundings."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.source, self.buckets = MemorySource(), MemoryBuckets(clock)
        cache = PolicyCache(self.source, clock)
        keys = KeyResolver(cache, PEPPERS)
        ids = ReservationIds([b"secret"])
        self.engine = DecisionEngine(keys, self.buckets, self.buckets, UsageTally(clock), ids)
        settlements, grants = Settlements(keys, self.buckets, ids), Grants(keys, self.buckets, clock)
        self.service = RateLimitService(self.engine, settlements, grants, clock, cached_requests=100)

    async def check(self, caller: Caller = ANONYMOUS, **fields: object) -> CheckLimitResponse:
        data = CheckLimitRequest(**fields).SerializeToString()
        response = await self.service.check_limit(self.service.reader.check(data), caller)
        return CheckLimitResponse.FromString(response.SerializeToString())

    async def batch(self, *checks: CheckLimitRequest) -> list[CheckResult]:
        data = BatchCheckLimitRequest(checks=checks).SerializeToString()
        response = await self.service.batch_check_limit(self.service.reader.batch(data), ANONYMOUS)
        return list(BatchCheckLimitResponse.FromString(response.SerializeToString()).results)

    def add(self, *limits: Limit) -> ApiKey:
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key, *limits)
        return api_key
