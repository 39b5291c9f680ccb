"""A stream of grants, as a gateway has it open."""

import queue
import threading
from collections.abc import Iterator
from typing import Self

import grpc

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    GrantRequest,
    StreamGrantRequest,
    StreamGrantResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role


class GrantStream:
    """A StreamGrant that is open until the block ends. A thread reads it; its end is an item of its own."""

    def __init__(self, server: Server, token: str | None = None) -> None:
        self._requests: queue.Queue[StreamGrantRequest | None] = queue.Queue()
        metadata = (("authorization", f"Bearer {token or server.tokens[Role.GATEWAY]}"),)
        stub = RateLimitServiceStub(server.channel)
        self._call = stub.StreamGrant(iter(self._requests.get, None), metadata=metadata)
        self._items: queue.Queue[StreamGrantResponse | grpc.StatusCode] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._reader.join()

    def send(self, *requests: GrantRequest) -> None:
        """Send one message."""
        self._requests.put(StreamGrantRequest(requests=requests))

    def ask(self, *requests: GrantRequest) -> StreamGrantResponse:
        """Send one message, and return the answer to it. Passes over withdrawals, which may come twice for a change."""
        self.send(*requests)
        while not (answer := self.read()).results:
            pass
        return answer

    def read(self, within: float = 10) -> StreamGrantResponse:
        """The next message. Fails if none comes WITHIN so many seconds."""
        item = self._items.get(timeout=within)
        assert isinstance(item, StreamGrantResponse), item
        return item

    def withdrawn(self, within: float = 10) -> Iterator[str]:
        """The keys that the next message withdraws."""
        message = self.read(within)
        assert not message.results
        return (each.key_id for each in message.withdrawals)

    def end(self, within: float = 10) -> grpc.StatusCode:
        """The status with which it ends next."""
        item = self._items.get(timeout=within)
        assert isinstance(item, grpc.StatusCode), item
        return item

    def _read(self) -> None:
        try:
            for response in self._call:
                self._items.put(response)
        except grpc.RpcError:
            pass
        self._items.put(self._call.code())
