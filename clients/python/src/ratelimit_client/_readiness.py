"""What `ready` sends, and what is wrong when it gets no answer."""

import re
import time

import grpc

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ._request import new_request_id
from .error import RateLimitError, is_failure

PAUSE = 0.1
"""Seconds until a service that fails is called again."""

_TLS = (
    "the TLS handshake failed. Check the option tls: "
    "that both sides use TLS, and that the client trusts the certificate"
)
_NO_CONNECTION = {
    "refused": "the connection is refused. Check the port, and that the service runs there",
    "DNS|resol|name or service": "its name cannot be resolved. Check its spelling, and the DNS of this machine",
    "handshake|SSL|TLS|certificate": _TLS,
    "clos|reset|EOF|preface": "it closes the connection. If it has TLS, set the option tls",
}
"""What is wrong, by words in what gRPC reports."""
_WRONG = {
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "no answer. Check that the service runs there, that no firewall is in the way, "
        "and that both sides use TLS or neither"
    ),
    grpc.StatusCode.UNAUTHENTICATED: "the service rejects the token. Check the option token",
    grpc.StatusCode.PERMISSION_DENIED: "the token may not check limits. Use one of role gateway",
    grpc.StatusCode.UNIMPLEMENTED: "what answers there is not the rate limit service. Check the target",
}


class Readiness:
    """Whether the service at TARGET answers, and grants units if IS_GRANTED, within TIMEOUT seconds from now."""

    def __init__(self, target: str, timeout: float, *, is_granted: bool) -> None:
        self._target = target
        self._ends = time.monotonic() + timeout
        self._last: RateLimitError | None = None
        no_id = "?" if is_granted else None
        self.request = CheckLimitRequest(cost=0, request_id=new_request_id(), key_id=no_id)
        """Charges nothing: it has no key. The service checks the token before it rejects that.

        A key id, though it is none, needs the role that grants do.
        """

    @property
    def remaining(self) -> float:
        """Seconds that are left: 0 or more."""
        return max(0.0, self._ends - time.monotonic())

    def is_answered(self, error: RateLimitError) -> bool:
        """Whether ERROR is an answer. If not, the service is called again after a pause.

        Raises RateLimitError when that would not help, or the time is over.
        """
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            return True
        if self._last is None or error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            self._last = error  # no answer to the last attempt is no cause if there is another
        if not is_failure(error) or self.remaining <= PAUSE:
            raise self._not_ready(self._last)
        return False

    def _not_ready(self, error: RateLimitError) -> RateLimitError:
        message = f" ({error.message})" if error.message else ""
        text = f"{self._target} is not ready: {_what_is_wrong(error)}.{message}"
        return RateLimitError(error.code, text, error.reason, error.field)


def _what_is_wrong(error: RateLimitError) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        found = (wrong for words, wrong in _NO_CONNECTION.items() if re.search(words, error.message, re.IGNORECASE))
        return next(found, "it cannot be reached. Check the target and the network")
    if is_failure(error):
        return _WRONG.get(error.code, "the service fails. See its log")
    return _WRONG.get(error.code, "it answers with an error")
