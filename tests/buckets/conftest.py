"""The fixtures of the tests of buckets."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import count

import pytest
import pytest_asyncio

from fixtures.redis_cluster import LoopbackCluster, LoopbackSentinel, redis_cluster, redis_sentinel
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.observers import Observers, RoundTripObserver, Unobserved, UsageObserver
from ratelimit_service.buckets.redis.spanning import SpanningStore
from ratelimit_service.buckets.redis.store import RedisBucketStore
from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import Limit

__all__ = ["LoopbackCluster", "LoopbackSentinel", "redis_cluster", "redis_sentinel"]

Store = RedisBucketStore | SpanningStore
OpenStore = Callable[..., Store]
MakeBucket = Callable[..., Bucket]
_names = count()


@pytest.fixture
def bucket() -> MakeBucket:
    """Makes an untouched bucket: `bucket(limit)`, `bucket(limit, partition=3)`."""

    def make(limit: Limit, partition: int = 0) -> Bucket:
        return Bucket(f"test.{next(_names)}", partition, limit)

    return make


@pytest_asyncio.fixture
async def open_store() -> AsyncIterator[OpenStore]:
    """Opens stores that are closed when the test ends. The timeout is generous, since the machine may be busy."""
    async with AsyncExitStack() as stores:

        def start(
            url: str,
            timeout: float = 5.0,
            request_window: float = 60.0,
            observer: RoundTripObserver | None = None,
            usage: UsageObserver | None = None,
        ) -> RedisBucketStore | SpanningStore:
            observers = Observers(observer or Unobserved(), usage or Unobserved())
            store = open_unguarded_store(url, timeout=timeout, request_window=request_window, observers=observers)
            stores.push_async_callback(store.close)
            return store

        yield start
