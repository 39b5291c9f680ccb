"""A server of the grpcio transport in this process, and a client of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service._gen.ratelimit.v1 import alerts_pb2, simulation_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.api.status import DETAILS_KEY
from ratelimit_service.bootstrap import Planes, open_planes
from ratelimit_service.management.tokens import Role
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

CHECKS = "/ratelimit.v1.RateLimitService"
ADMIN = "/ratelimit.v1.KeyAdminService"
METHODS = {
    f"{CHECKS}/CheckLimit": checks_pb2.CheckLimitResponse,
    f"{CHECKS}/BatchCheckLimit": checks_pb2.BatchCheckLimitResponse,
    f"{ADMIN}/ManageKey": admin_pb2.ManageKeyResponse,
    f"{ADMIN}/ManagePlan": admin_pb2.ManagePlanResponse,
    f"{ADMIN}/ManageOverride": admin_pb2.ManageOverrideResponse,
    f"{ADMIN}/ExplainLimit": admin_pb2.ExplainLimitResponse,
    f"{ADMIN}/ListAuditEvents": admin_pb2.ListAuditEventsResponse,
    f"{ADMIN}/QueryUsage": admin_pb2.QueryUsageResponse,
    f"{ADMIN}/SimulatePlan": simulation_pb2.SimulatePlanResponse,
    f"{ADMIN}/ListAlerts": alerts_pb2.ListAlertsResponse,
    f"{ADMIN}/TestAlert": alerts_pb2.TestAlertResponse,
}
SECONDS = 10.0

D = TypeVar("D", bound=Message)


@dataclass
class Refusal:
    """An error as a caller sees it."""

    code: grpc.StatusCode
    message: str
    status: status_pb2.Status

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        """Its ErrorInfo; empty if it has none."""
        return self._detail(error_details_pb2.ErrorInfo())

    @property
    def reason(self) -> str:
        """The reason of its ErrorInfo; empty if it has none."""
        return str(self.info.reason)

    @property
    def fields(self) -> list[str]:
        """The fields that its BadRequest names."""
        return [violation.field for violation in self._detail(error_details_pb2.BadRequest()).field_violations]

    @property
    def retry_seconds(self) -> float:
        """The delay of its RetryInfo; 0 if it has none."""
        return float(self._detail(error_details_pb2.RetryInfo()).retry_delay.ToTimedelta().total_seconds())

    @property
    def preconditions(self) -> list[tuple[str, str]]:
        """Type and subject of each violation of its PreconditionFailure."""
        failure = self._detail(error_details_pb2.PreconditionFailure())
        return [(violation.type, violation.subject) for violation in failure.violations]

    def _detail(self, detail: D) -> D:
        for packed in self.status.details:
            if packed.Unpack(detail):
                break
        return detail


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """What a caller can read from an error."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers.get(DETAILS_KEY, b""))
    return Refusal(error.code(), error.details() or "", status)


@dataclass
class RunningServer:
    """A running server, a channel to it, and one token of each role."""

    planes: Planes
    server: GrpcServer
    channel: grpc.aio.Channel
    tokens: dict[Role, str] = field(default_factory=dict)

    async def send(
        self, method: str, data: bytes, token: str | None = None, seconds: float = SECONDS
    ) -> Message | Refusal:
        """Call METHOD with these bytes."""
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        call = self.channel.unary_unary(method)
        try:
            return METHODS[method].FromString(await call(data, metadata=metadata, timeout=seconds))
        except grpc.aio.AioRpcError as error:
            return refusal(error)

    async def check(self, token: str | None = None, **fields: object) -> checks_pb2.CheckLimitResponse | Refusal:
        """Call CheckLimit."""
        request = checks_pb2.CheckLimitRequest(**fields)
        return await self.send(f"{CHECKS}/CheckLimit", request.SerializeToString(), token)

    async def admin(self, method: str, request: Message, role: Role | None = Role.ADMIN) -> Message | Refusal:
        """Call a method of KeyAdminService with a token of this role."""
        token = None if role is None else self.tokens[role]
        return await self.send(f"{ADMIN}/{method}", request.SerializeToString(), token)

    async def key(self, action: str, **fields: object) -> admin_pb2.ManageKeyResponse:
        """Do one thing to a key, as an admin; it must succeed."""
        answer = await self.admin("ManageKey", admin_pb2.ManageKeyRequest(**{action: fields}))
        assert isinstance(answer, admin_pb2.ManageKeyResponse), answer
        return answer

    async def plan(self, action: str, **fields: object) -> admin_pb2.ManagePlanResponse:
        """Do one thing to a plan, as an admin; it must succeed."""
        answer = await self.admin("ManagePlan", admin_pb2.ManagePlanRequest(**{action: fields}))
        assert isinstance(answer, admin_pb2.ManagePlanResponse), answer
        return answer


@asynccontextmanager
async def open_server(settings: Settings, roles: Sequence[Role] = tuple(Role)) -> AsyncIterator[RunningServer]:
    """Start a server with these settings, with a token of each role, and stop it at the end."""
    async with open_planes(settings, needs_token=False) as planes:
        server = GrpcServer(settings, planes, planes.key_admin)
        await server.start()
        planes.join()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            running = RunningServer(planes, server, channel)
            names = {token.name for token in await planes.services.tokens.list()}
            for role in roles:
                name = f"{role.value}-{len(names)}"
                running.tokens[role] = await planes.services.tokens.create(name, role)
            yield running
        await server.drain(0)
