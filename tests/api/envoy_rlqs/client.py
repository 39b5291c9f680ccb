"""A stream of Envoy's rate limit quota service, by a stock gRPC client."""

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import grpc

from fixtures.served import Server
from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import (
    RateLimitQuotaResponse,
    RateLimitQuotaUsageReports,
)
from ratelimit_service.management.tokens import Role

METHOD = "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas"
SECONDS = 10.0
Bucket = dict[str, str]


def message(domain: str, *usages: tuple[Bucket, int, int], elapsed: int = 0) -> RateLimitQuotaUsageReports:
    """A report of buckets, each with the requests that were allowed and denied."""
    reports = RateLimitQuotaUsageReports(domain=domain)
    for bucket, allowed, denied in usages:
        usage = reports.bucket_quota_usages.add(num_requests_allowed=allowed, num_requests_denied=denied)
        usage.bucket_id.bucket.update(bucket)
        usage.time_elapsed.seconds = elapsed
    return reports


class QuotaClient:
    """One stream, on a connection of its own, which a thread reads until it ends."""

    def __init__(self, server: Server, token: str | None = None) -> None:
        """By default with a token of role gateway; "" for none."""
        own = server.tokens[Role.GATEWAY] if token is None else token
        metadata = (("authorization", f"Bearer {own}"),) if own else ()
        self._channel = grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),))
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = self._channel.stream_stream(METHOD)(self._sent(), metadata=metadata)
        self._changed = threading.Condition()
        self.actions: list[RateLimitQuotaResponse.BucketAction] = []
        self.code: grpc.StatusCode | None = None
        self.message = ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def send(self, request: RateLimitQuotaUsageReports | bytes) -> None:
        """Send a report."""
        self._requests.put(request if isinstance(request, bytes) else request.SerializeToString())

    def close(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def wait(self, count: int = 1) -> list[RateLimitQuotaResponse.BucketAction]:
        """The assignments so far, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.actions) >= count or self.code, SECONDS), self.actions
            assert len(self.actions) >= count, (self.code, self.message)
            return list(self.actions)

    def wait_ended(self) -> grpc.StatusCode:
        """The code with which the stream has ended, once it has."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.code is not None, SECONDS)
        assert self.code is not None
        return self.code

    def wait_for(self, bucket: Bucket, tokens: int) -> RateLimitQuotaResponse.BucketAction:
        """The assignment of BUCKET, once it has so many TOKENS, or up to a tenth more or less."""
        until = time.monotonic() + SECONDS
        while True:
            for action in reversed(self.actions):
                if action.bucket_id.bucket == bucket:
                    if abs(tokens_of(action) - tokens) <= tokens / 10:
                        return action
                    break
            assert time.monotonic() < until, (tokens, self.actions)
            time.sleep(0.02)

    def _sent(self) -> Iterator[bytes]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        code, message = grpc.StatusCode.OK, ""
        try:
            for response in self._call:
                with self._changed:
                    self.actions += RateLimitQuotaResponse.FromString(response).bucket_action
                    self._changed.notify_all()
        except grpc.RpcError as error:
            code, message = error.code(), error.details()
        with self._changed:
            self.code, self.message = code, message
            self._changed.notify_all()


def tokens_of(action: RateLimitQuotaResponse.BucketAction) -> int:
    """The tokens that an assignment has in an interval."""
    tokens: int = action.quota_assignment_action.rate_limit_strategy.token_bucket.tokens_per_fill.value
    return tokens
