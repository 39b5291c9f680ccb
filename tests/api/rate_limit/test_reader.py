"""Requests are read as protobuf reads them, and cached by their bytes until something changes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from decision.memory import PEPPERS, START_US, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    StreamCheckLimitRequest,
)
from ratelimit_service.api.rate_limit.reader import MAX_BATCH, NewCheck, _to_check
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.api.wire import submessages
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.engine import Check, DecisionEngine, PreparedCheck
from ratelimit_service.decision.grants import Grants
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.tokens import Caller, Role

GATEWAY = Caller("edge", Role.GATEWAY)


class World:
    """A reader with an engine over stores in memory, and one key."""

    def __init__(self, *limits: Limit, **fields: object) -> None:
        self.clock, self.source = ManualClock(), MemorySource()
        self.cache = PolicyCache(self.source, self.clock)
        buckets = MemoryBuckets(self.clock)
        keys = KeyResolver(self.cache, PEPPERS)
        ids = ReservationIds([b"secret"])
        self.engine = DecisionEngine(keys, buckets, buckets, UsageTally(self.clock), ids)
        settlements, grants = Settlements(keys, buckets, ids), Grants(keys, buckets, self.clock)
        self.service = RateLimitService(self.engine, settlements, grants, self.clock, cached_requests=100)
        self.reader = self.service.reader
        self.api_key = ApiKey.generate("live")
        self.source.records[self.api_key.key_id] = record(self.api_key, *limits, **fields)

    def asking(self, **fields: object) -> bytes:
        """A request for the key."""
        return CheckLimitRequest(**{"api_key": str(self.api_key), **fields}).SerializeToString()

    async def decide(self, data: bytes) -> Decision:
        check = self.reader.check(data)
        return await self.engine.decide(
            check if isinstance(check, PreparedCheck) else await self.service._prepare(check, GATEWAY, None)
        )

    async def change(self, kind: ChangeKind = ChangeKind.KEY, **fields: object) -> None:
        """Change what is known of the key, and invalidate what is cached of it."""
        key_id = self.api_key.key_id
        self.source.records[key_id] = self.source.records[key_id].having(**fields)
        await self.cache.apply([Change(kind, key_id if kind is ChangeKind.KEY else "free")])
        while self.cache.refresh_age > 0:  # noqa: ASYNC110  of a plan its keys are read in the background
            await asyncio.sleep(0)

    def is_cached(self, data: bytes) -> bool:
        return isinstance(self.reader.check(data), PreparedCheck)


async def test_the_same_bytes_are_cached() -> None:
    """From the third time on, and they are charged like the first."""
    world = World(burst(3))
    assert not world.is_cached(world.asking())
    left = [(await world.decide(world.asking())).results[0].remaining for _ in range(3)]
    assert world.is_cached(world.asking())
    assert left == [2_000_000, 1_000_000, 0]
    assert (await world.decide(world.asking())).reason is Reason.OVER_LIMIT


async def test_other_bytes_are_another_check() -> None:
    """A cost, a resource and a secret of another call are never taken for those of a call before."""
    world = World(burst(100), burst(5, name="few", resource="few"))
    await world.decide(world.asking(resource="r", cost=2))
    assert (await world.decide(world.asking(resource="r", cost=3))).results[0].remaining == 95_000_000
    assert len((await world.decide(world.asking(resource="few", cost=2))).rules) == 2
    forged = replace(ApiKey.generate("live"), key_id=world.api_key.key_id)
    for _ in range(3):
        assert (await world.decide(world.asking(api_key=str(forged)))).reason is Reason.KEY_UNKNOWN


async def test_an_unknown_key_is_read_again() -> None:
    """It is never cached, so that it is valid as soon as it exists."""
    world = World()
    found = world.source.records.pop(world.api_key.key_id)
    for _ in range(2):
        assert (await world.decide(world.asking())).reason is Reason.KEY_UNKNOWN
    world.source.records[world.api_key.key_id] = found
    await world.change()
    assert (await world.decide(world.asking())).allowed


@pytest.mark.parametrize("kind", [ChangeKind.KEY, ChangeKind.PLAN])
async def test_a_change_ends_it(kind: ChangeKind) -> None:
    """A changed key or plan is in force for the next call in the same bytes."""
    world = World(burst(3))
    for _ in range(2):
        await world.decide(world.asking())
    assert world.is_cached(world.asking())
    await world.change(kind, limits=(burst(50),))
    assert not world.is_cached(world.asking())
    assert (await world.decide(world.asking())).rules[0].limit.capacity == 50
    await world.change(kind, state=KeyState.REVOKED)
    assert (await world.decide(world.asking())).reason is Reason.KEY_REVOKED


async def test_time_ends_it() -> None:
    """A key that expires, and an override that does, take effect without a notification."""
    world = World(
        burst(3),
        expires_us=START_US + 2_000_000,
        key_overrides=(Override(burst(100), expires_us=START_US + 1_000_000),),
    )
    assert (await world.decide(world.asking())).rules[0].limit.capacity == 100
    world.clock.time_us += 1_000_000
    assert (await world.decide(world.asking())).rules[0].limit.capacity == 3
    assert world.is_cached(world.asking())
    world.clock.time_us += 1_000_000
    assert (await world.decide(world.asking())).reason is Reason.KEY_EXPIRED


@pytest.mark.parametrize(
    "fields", [{"request_id": "r-1"}, {"key_id": "its id"}, {"resource": "r" * 200, "request_id": "x" * 100}]
)
async def test_what_is_never_cached(fields: dict[str, str]) -> None:
    """A call with a request id comes once, and one with a key id depends on the caller."""
    world = World()
    if "key_id" in fields:
        fields = {"key_id": world.api_key.key_id}
    for _ in range(2):
        await world.decide(world.asking(**fields))
        assert not world.is_cached(world.asking(**fields))


async def test_large_requests_are_not_cached() -> None:
    """A request that costs more to hash than to parse is parsed, and decided all the same."""
    world = World()
    data = world.asking() + b"\x7a\xff\x07" + bytes(1023)  # an unknown field
    for _ in range(2):
        assert (await world.decide(data)).allowed
        assert not world.is_cached(data)


_requests = st.builds(
    CheckLimitRequest,
    api_key=st.text(max_size=5),
    resource=st.sampled_from(["", "r", "x" * 200, "y" * 20_000]),
    cost=st.none() | st.integers(0, 3),
)
_odd = st.sampled_from(
    [b"", b"\x0a", b"\x0a\x80", b"\x0a\x80\x80\x00", b"\x0a\xff\x01", b"\x12\x00", b"\x08\x07", b"\xff"]
)


def _as_protobuf_reads(message: type[BatchCheckLimitRequest], data: bytes) -> list[Check] | None:
    try:
        return list(map(_to_check, message.FromString(data).checks))
    except DecodeError:
        return None


def _checks(new: Sequence[NewCheck | PreparedCheck]) -> list[Check]:
    assert all(isinstance(one, NewCheck) for one in new)
    return [one.check for one in new if isinstance(one, NewCheck)]


@given(st.lists(_requests, max_size=4), _odd, st.booleans())
def test_batches_are_what_protobuf_reads(requests: list[CheckLimitRequest], odd: bytes, before: bool) -> None:
    """Whatever bytes come: the same checks, or InvalidArgument where protobuf finds no message or no check."""
    data = BatchCheckLimitRequest(checks=requests).SerializeToString()
    data = odd + data if before else data + odd
    expected = _as_protobuf_reads(BatchCheckLimitRequest, data)
    if not expected:
        with pytest.raises(InvalidArgument):
            World().reader.batch(data)
    else:
        assert _checks(World().reader.batch(data)) == expected


@given(st.lists(_requests, min_size=1, max_size=2), _odd)
def test_streamed_ones_are_what_protobuf_reads(requests: list[CheckLimitRequest], odd: bytes) -> None:
    """Whatever bytes come, a field that comes twice being one message of both."""
    data = b"".join(StreamCheckLimitRequest(check=one).SerializeToString() for one in requests) + odd
    checks, error = World().reader.stream([data])
    try:
        expected = _to_check(StreamCheckLimitRequest.FromString(data).check)
    except DecodeError:
        assert checks == []
        assert error is not None
    else:
        assert error is None
        assert _checks(checks) == [expected]


def test_a_stream_is_read_up_to_a_malformed_message() -> None:
    """Those before it are valid, those after it are not read."""
    world = World()
    valid = StreamCheckLimitRequest(check=CheckLimitRequest(api_key="k")).SerializeToString()
    checks, error = world.reader.stream([valid, valid, b"\xff", valid])
    assert len(checks) == 2
    assert error is not None
    assert "StreamCheckLimitRequest" in str(error)


@pytest.mark.parametrize("odd", [b"", b"\x78\x01"], ids=["plain", "beside a field of a later version"])
@pytest.mark.parametrize(
    ("count", "size", "problem"),
    [
        (0, 1, "has 0 entries"),
        (MAX_BATCH + 1, 1, "has more than 256 entries"),
        (MAX_BATCH + 1, 100, "has more than 256 entries"),
        (30_000, 0, "has more than 256 entries"),
    ],
)
def test_a_batch_has_bounds(count: int, size: int, problem: str, odd: bytes) -> None:
    """None and too many are rejected, however small or large each is."""
    data = BatchCheckLimitRequest(checks=[CheckLimitRequest(api_key="k" * size)] * count).SerializeToString()
    with pytest.raises(InvalidArgument, match=problem):
        World().reader.batch(data + odd)


def test_a_large_batch_with_fields_of_a_later_version() -> None:
    """It is decided as far as we know it."""
    checks = [CheckLimitRequest(api_key="k" * 67)] * MAX_BATCH
    data = BatchCheckLimitRequest(checks=checks).SerializeToString() + b"\x78\x01" * 20
    assert len(World().reader.batch(data)) == MAX_BATCH


@given(st.lists(st.binary(max_size=300), max_size=5), _odd)
def test_submessages(parts: list[bytes], odd: bytes) -> None:
    """The messages of a field that stands alone, and None as soon as there is anything else."""
    data = b"".join(map(_field, parts))
    assert submessages(0x0A, data, len(parts)) == parts
    if odd:
        assert submessages(0x0A, data + odd, len(parts) + 1) is None


def test_a_message_of_16_kib_is_left_to_protobuf() -> None:
    """Its length has three bytes, which are not taken for two and a part of the message."""
    large = CheckLimitRequest(resource="x" * 20_000).SerializeToString() + b"\x30\x0a"  # its last byte is a tag's
    small = CheckLimitRequest(resource="seven b").SerializeToString()
    message = BatchCheckLimitRequest.FromString(
        b"\x0a" + bytes([len(large) & 127 | 128, len(large) >> 7 & 127 | 128, len(large) >> 14]) + large + _field(small)
    )
    data = message.SerializeToString()
    assert submessages(0x0A, data, 2) is None
    assert _checks(World().reader.batch(data)) == list(map(_to_check, message.checks))


def _field(part: bytes) -> bytes:
    size = len(part)
    return b"\x0a" + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + part
