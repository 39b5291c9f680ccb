"""Reports as they are read: ids of buckets as bytes, in whatever order their keys came."""

import asyncio

import pytest

from api.envoy_rlqs.client import message
from decision.assignments.world import World
from decision.descriptors.world import bucket, node
from ratelimit_service.api.envoy_rlqs.reader import name_of, read_bucket, read_reports
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService, QuotaStream
from ratelimit_service.errors import InvalidArgument

A, B = b"\n\x06\n\x01a\x12\x011", b"\n\x06\n\x01b\x12\x012"  # entries of a map, which may come in any order


def report(bucket_id: bytes, allowed: int) -> bytes:
    """A report of domain shop with one bucket."""
    usage = b"\n%c%b\x18%c" % (len(bucket_id), bucket_id, allowed)
    return b"\n\x04shop\x12%c%b" % (len(usage), usage)


def test_reads_what_envoy_writes() -> None:
    """The domain, and of each bucket its id, its requests, and the time that they took."""
    sent = message("shop", ({"a": "1", "b": "2"}, 3, 4), ({"c": "3"}, 0, 2**40), elapsed=5)
    domain, usages = read_reports(sent.SerializeToString(), "")
    assert domain == "shop"
    for usage, original in zip(usages, sent.bucket_quota_usages, strict=True):
        assert read_bucket(usage.bucket_id) == original.bucket_id
        assert usage.time_elapsed.seconds == original.time_elapsed.seconds
        assert usage.num_requests_allowed == original.num_requests_allowed
        assert usage.num_requests_denied == original.num_requests_denied
    assert {name_of(read_bucket(each)) for each in (A + B, B + A)} == {A + B}


async def test_a_bucket_is_the_same_in_any_order() -> None:
    """Its requests are counted, whichever order its id has; one that is malformed ends the stream."""
    running = await World(node("a", "1", below=(node("b", "2", bucket(100, 100)),))).begin()
    allocator = running.servers[0]
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with allocator.stream() as subscriber:
        stream = QuotaStream(EnvoyQuotaService(allocator), allocator, subscriber, asyncio.Lock())
        await stream.report([report(B + A, 1), report(A + B, 2), report(B + A, 4)], ended)
        assert allocator.buckets == 1
        assert allocator.reported["allowed"] == 7
        with pytest.raises(InvalidArgument, match="BucketId"):
            await stream.report([report(A[:-1], 1)], ended)
