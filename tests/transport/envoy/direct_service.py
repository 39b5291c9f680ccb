"""A whole server, and how many of its calls were decided without a task."""

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc

from api.envoy.wire import Refused, send
from fixtures.served import Server
from operations.probe import ask
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.metrics.export import EXPORT_SECONDS
from ratelimit_service.metrics.scrape import SHARED_SECONDS
from ratelimit_service.transport.envoy.paths import CHECK, SHOULD_RATE_LIMIT
from transport.envoy import entered

SETTLES = EXPORT_SECONDS + SHARED_SECONDS + 0.5
"""Seconds after which every call is in the metrics."""


@dataclass(frozen=True)
class Service:
    """A server that lists the calls which enter its applications, in this folder (`entered`)."""

    server: Server
    folder: Path

    def entered(self, path: str) -> int:
        """How many calls of a method were not decided directly."""
        return Counter(entered.entered(self.folder))[path]

    def count(self, path: str, code: str = "OK") -> int:
        """How many calls are counted in the metrics."""
        text = ask(self.server.settings.operations_listen, "/metrics").text
        found = re.search(rf'^ratelimit_calls_total{{code="{code}",method="{path}"}} (\S+)$', text, re.MULTILINE)
        return 0 if found is None else int(float(found[1]))

    def settled(self, path: str) -> int:
        """The same with OK, once all are counted that were made."""
        before, found = -1, self.count(path)
        while found != before:
            time.sleep(SETTLES)
            before, found = found, self.count(path)
        return found

    def check(self, message: bytes, token: str | None = None) -> CheckLimitResponse:
        """Make a call of CheckLimit. Raises Refused."""
        return CheckLimitResponse.FromString(send(self.server, CHECK, message, token))

    def limit(self, message: bytes, token: str | None = None) -> RateLimitResponse:
        """Make a call of ShouldRateLimit. Raises Refused."""
        return RateLimitResponse.FromString(send(self.server, SHOULD_RATE_LIMIT, message, token))

    def code(self, message: bytes, token: str | None = None, path: str = CHECK) -> grpc.StatusCode:
        """The code of a call."""
        try:
            send(self.server, path, message, token)
        except Refused as error:
            return error.code
        return grpc.StatusCode.OK
