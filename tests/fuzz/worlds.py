"""The methods that strangers call, on real engine parts over stores in memory, called as Envoy calls them."""

import asyncio
from collections.abc import Mapping
from typing import Any

from api.tokens import Source, Time, bearer
from decision.assignments.world import MemoryShares
from decision.descriptors.world import BLOCKED, UNLIMITED, MemoryRules, bucket, node, quota
from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service.api.authentication import Authenticator, Role, decision_admission
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService
from ratelimit_service.api.envoy_rls import service as envoy_rls
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision import settlement
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.assignments.allocator import Allocator
from ratelimit_service.decision.descriptors import tree
from ratelimit_service.decision.descriptors.engine import DescriptorEngine
from ratelimit_service.decision.descriptors.held import HeldCalls
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.grants import Grants
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, Window
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.record import KeyState
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.errors import Code
from ratelimit_service.management.known_tokens import KnownTokens
from ratelimit_service.transport.envoy.admission import Bounds
from ratelimit_service.transport.envoy.app import decision_methods, envoy_methods
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import App

KEY, REVOKED, UNKNOWN = (ApiKey("live", f"{name:0>16}", "s" * 27) for name in ("key", "revoked", "unknown"))
"""Keys whose text is the same in every run, as fuzzers need it."""

DOMAIN = "edge"
HELD = "held"
"""A domain whose calls are held."""

HEADERS = "ietf,x-ratelimit"

_NODES = (
    RuleNode("a", "", (quota(5),), (node("b", "x*", bucket(3)), node("b", "", UNLIMITED))),
    node("blocked", "", BLOCKED),
    node("path", "/orders*", RuleLimit(Quota(7, Window.HOUR), "orders", replaces=("all",)), quota(9, name="all")),
    node("shared", "*", quota(4), share_threshold=True),
)
_LIMITS = (
    burst(20),
    Limit("daily", Quota(10, Window.DAY), "GET /orders*"),
    Limit("at-once", Concurrency(9, MICRO), "orders"),
)
_CACHED = 500  # requests and buckets; the real bounds would fill for the whole length of a run
_TAKEN = 1_000  # runs from one flush of what was counted to the next


async def _drain() -> Drain:
    return Drain()


class World:
    """All methods of the Envoy transport by path, and what was counted of their calls."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.usage = UsageTally(self.clock)
        self.counted: list[Code] = []
        self._runs = 0
        source = MemorySource()
        source.records[KEY.key_id] = record(KEY, *_LIMITS)
        source.records[REVOKED.key_id] = record(REVOKED, state=KeyState.REVOKED)
        tree._MAX_CACHED = _CACHED
        resolver = KeyResolver(PolicyCache(source, self.clock), PEPPERS)
        buckets = LocalBucketStore(lambda: 1, self.clock.now_us, size=_CACHED)
        domains = MemoryRules(DomainRules(DOMAIN, _NODES))
        domains.rules[HELD] = DomainRules(HELD, _NODES, hold_us=5 * MICRO)
        rules = RulesCache(domains)
        self.loop.run_until_complete(rules.refresh_all())
        ids = ReservationIds([b"secret"])
        engine = DecisionEngine(resolver, buckets, buckets, self.usage, ids)
        descriptors = DescriptorEngine(rules, resolver, buckets, buckets, self.usage)
        headers = LimitHeaders(HEADERS)
        envoy_rls._CACHED_REQUESTS = envoy_rls._CACHED_GATEWAY_REQUESTS = _CACHED
        refused = ReasonCounts("denied a request that is too large or malformed")
        reserving = MemoryBuckets(self.clock)  # which settles, and is bounded by the limit on open reservations
        holding = DecisionEngine(resolver, reserving, buckets, self.usage, ids)
        settlement._MAX_READ = _CACHED
        settlements = Settlements(resolver, reserving, ids)
        held = HeldCalls(rules, holding, settlements)
        self.rate_limits = envoy_rls.EnvoyRateLimitService(descriptors, held, headers, self.clock, refused)
        self.authorization = EnvoyAuthorizationService(engine, headers, "authorization", refused)
        grants = Grants(resolver, reserving, self.clock)
        self.forget_grants = reserving._buckets._grants.clear
        self._reservations = reserving._buckets._reservations
        self.checks = RateLimitService(holding, settlements, grants, self.clock, cached_requests=_CACHED)
        self._shares = MemoryShares(self.clock)
        self.allocator = Allocator(rules, reserving, self._shares, self.usage, self.monotonic)
        self.quotas = EnvoyQuotaService(self.allocator)
        tokens = Source()
        self._gateway = bearer(tokens.make("edge", Role.GATEWAY)).encode()
        admission = decision_admission(Authenticator(KnownTokens(tokens, Time())), protect=False)
        bounds, drain = Bounds(), self.run(_drain())
        decisions = decision_methods(self.checks, admission, self._count, drain, bounds)
        of_envoy = (self.rate_limits, self.authorization, self.quotas, admission, self._count, drain, bounds)
        methods = decisions.with_all(envoy_methods(*of_envoy))
        self.methods: Mapping[str, App] = methods.apps
        self.begins = methods.begins

    def monotonic(self) -> float:
        """The world's clock as a monotonic one."""
        return self.clock.time_us / MICRO

    def call(self, path: str, body: bytes, *, gateway: bool = False) -> tuple[int, bytes]:
        """Call a method as Envoy does. Returns the gRPC code and the message, empty if there is none.

        Whatever the body: there is exactly one response, and it is not INTERNAL, UNKNOWN or another that is unheard of.
        """
        headers = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        if gateway:
            headers.append((b"authorization", self._gateway))
        scope = {"type": "http", "path": path, "method": "POST", "headers": headers, "client": ("127.0.0.1", 1)}
        sent: list[dict[str, Any]] = []
        bodies = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(bodies)

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        self.clock.time_us += 1_000
        self.loop.run_until_complete(self.methods[path](scope, receive, send))
        self._flush()
        assert sum(event["type"] == "http.response.start" for event in sent) == 1
        (code,) = (int(value) for event in sent for name, value in event.get("headers", ()) if name == b"grpc-status")
        framed = b"".join(event["body"] for event in sent if event["type"] == "http.response.body")
        assert (code == 0) == bool(framed)
        assert code not in {Code.INTERNAL, 2}, sent
        assert self.counted == [Code(code)]
        self.counted.clear()
        return code, framed[5:]

    def run(self, awaitable: Any) -> Any:  # noqa: ANN401  whatever it returns
        """Run something on the world's event loop."""
        result = self.loop.run_until_complete(awaitable)
        self._flush()
        return result

    def _count(self, _method: str, code: Code, _seconds: float) -> None:
        self.counted.append(code)

    def _flush(self) -> None:
        """Take what was counted, as the sender of a worker does, and forget reservations, as Redis does."""
        self._runs += 1
        if self._runs % _TAKEN == 0:
            self._shares.visits.clear()
            self._reservations.clear()
            while rows := self.usage.take(_TAKEN):
                self.usage.release(rows)
