"""A call to make and its outcome, in a form that every client shares."""

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2

CHECK = "/ratelimit.v1.RateLimitService/CheckLimit"
BATCH = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
STREAM = "/ratelimit.v1.RateLimitService/StreamCheckLimit"

M = TypeVar("M", bound=Message)


@dataclass
class CallSpec:
    """A call: its method, its messages, and how to make it. A stream that is cancelled is not half-closed before."""

    method: str
    messages: list[bytes]
    stream: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    cancel_after: float = 0.0
    gzip: bool = False

    def to_json(self) -> dict[str, Any]:
        """The call as a client in another language reads it."""
        return asdict(self) | {"messages": [b64encode(message).decode() for message in self.messages]}


@dataclass
class Outcome:
    """What a client saw: the code, the message, the status with details, and the answers."""

    code: int
    message: str
    details: bytes
    answers: list[bytes]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Outcome":
        """The outcome that a client in another language has reported."""
        return cls(data["code"], data["message"], b64decode(data["details"]), [b64decode(a) for a in data["answers"]])

    @property
    def reason(self) -> str:
        """The reason in the ErrorInfo, empty if there is none."""
        return str(self.info.reason)

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        """The ErrorInfo; empty if there is none."""
        return self.detail(error_details_pb2.ErrorInfo())

    def detail(self, empty: M) -> M:
        """The detail of this type, or EMPTY."""
        for packed in status_pb2.Status.FromString(self.details).details:
            if packed.Unpack(empty):
                break
        return empty

    def decision(self) -> pb2.CheckLimitResponse:
        """The one decision that was answered."""
        assert self.code == 0, self
        return pb2.CheckLimitResponse.FromString(self.answers[0])

    def batch_results(self) -> list[pb2.CheckResult]:
        """The results of a batch."""
        assert self.code == 0, self
        return list(pb2.BatchCheckLimitResponse.FromString(self.answers[0]).results)

    def stream_results(self) -> list[pb2.CheckResult]:
        """The results of a stream."""
        return [pb2.StreamCheckLimitResponse.FromString(answer).result for answer in self.answers]


def check(**fields: object) -> CallSpec:
    """A CheckLimit."""
    return CallSpec(CHECK, [pb2.CheckLimitRequest(**fields).SerializeToString()])


def batch(*checks: dict[str, object]) -> CallSpec:
    """A BatchCheckLimit."""
    return CallSpec(BATCH, [pb2.BatchCheckLimitRequest(checks=checks).SerializeToString()])


def stream(*checks: dict[str, object]) -> CallSpec:
    """A StreamCheckLimit."""
    messages = [pb2.StreamCheckLimitRequest(check=fields).SerializeToString() for fields in checks]
    return CallSpec(STREAM, messages, stream=True)
