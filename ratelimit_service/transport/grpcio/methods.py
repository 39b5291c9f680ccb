"""Every method that this transport serves, with its interceptors around it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from ratelimit_service._gen.envoy.service.auth.v3 import external_auth_pb2
from ratelimit_service._gen.envoy.service.rate_limit_quota.v3 import rlqs_pb2
from ratelimit_service._gen.envoy.service.ratelimit.v3 import rls_pb2
from ratelimit_service._gen.grpc.reflection.v1 import reflection_pb2
from ratelimit_service._gen.ratelimit.v1 import alerts_pb2, enforcement_pb2, simulation_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from ratelimit_service.api.authentication import Admission, Authenticator, Caller, Role
from ratelimit_service.api.envoy_ext_authz.described import describe_authorization
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService
from ratelimit_service.api.envoy_rls.described import describe_request
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.fallback import Fallback, no_fallback
from ratelimit_service.api.key_admin.requests import reader
from ratelimit_service.api.key_admin.service import KeyAdminService
from ratelimit_service.api.key_admin.turns import Turns
from ratelimit_service.api.messages import (
    MAX_ADMIN_MESSAGE,
    MAX_MESSAGE,
    message_too_large,
    missing_message,
    not_served,
    parse,
    served_elsewhere,
)
from ratelimit_service.api.overload.control import OverloadControl
from ratelimit_service.api.overload.denial import OVER_LIMIT, SERVICE_UNAVAILABLE
from ratelimit_service.api.rate_limit.described import describe_check, describe_checks
from ratelimit_service.api.rate_limit.reader import read_extension, read_grant, read_settlement
from ratelimit_service.api.rate_limit.service import DecideGroup, RateLimitService
from ratelimit_service.api.rate_limit.streams import Streams, check_streams, grant_streams
from ratelimit_service.api.recording import Describe, Recorder, nothing_described
from ratelimit_service.api.wire import Serializable
from ratelimit_service.metrics import CallCounts
from ratelimit_service.transport.grpcio.context import Context, Present
from ratelimit_service.transport.grpcio.handlers import quota_stream, stream, unary
from ratelimit_service.transport.grpcio.interceptors import (
    Call,
    Handler,
    admit,
    authenticate,
    convert_errors,
    count_calls,
    log_calls,
    log_failures,
    open_stream,
    replace_errors,
)
from ratelimit_service.transport.grpcio.open_streams import HealthService, ReflectionService
from ratelimit_service.transport.grpcio.recorded import note_callers, record, sample
from ratelimit_service.transport.grpcio.unfinished import Unfinished

RATE_LIMIT_SERVICE: Final = checks_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
ENVOY_RATE_LIMIT_SERVICE: Final = rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
ENVOY_AUTHORIZATION_SERVICE: Final = external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"].full_name
ENVOY_QUOTA_SERVICE: Final = rlqs_pb2.DESCRIPTOR.services_by_name["RateLimitQuotaService"].full_name
KEY_ADMIN_SERVICE: Final = admin_pb2.DESCRIPTOR.services_by_name["KeyAdminService"].full_name
ADMIN_METHODS: Final = tuple(
    f"/{KEY_ADMIN_SERVICE}/{method.name}" for method in admin_pb2.DESCRIPTOR.services_by_name["KeyAdminService"].methods
)
"""The methods of KeyAdminService, as they are called."""
HEALTH_SERVICE: Final = health.SERVICE_NAME
REFLECTION_SERVICE: Final = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name


_Request = TypeVar("_Request", bound=Message)
_Bound: TypeAlias = tuple[Callable[[str, Handler], Any], Handler]
"""How a handler becomes a method of the library, and the handler."""


class DecisionInterceptor(Protocol):
    """Puts all interceptors around the handler of a method that decides."""

    def __call__(
        self,
        handler: Handler,
        describe: Describe = nothing_described,
        fallback: Fallback = no_fallback,
        *,
        stream: bool = False,
    ) -> Handler:
        """HANDLER, perhaps of a STREAM, with its interceptors, and with FALLBACK in place of errors.

        DESCRIBE is what is recorded of responses. A stream is not sampled.
        """
        ...


class Methods(grpc.GenericRpcHandler):
    """Finds the handler of a method. Comes last: the response to an unknown method is UNIMPLEMENTED."""

    def __init__(self, handlers: Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """The handler of the method that is called."""
        method = handler_call_details.method
        return self._handlers.get(method) or _streamed(method, convert_errors(_not_served))


def decision_interceptor(
    admission: Admission,
    counts: CallCounts,
    present: Present,
    overload: OverloadControl,
    recorder: Recorder | None = None,
) -> DecisionInterceptor:
    """All interceptors of methods that decide, for callers that ADMISSION admits by what PRESENT finds.

    RECORDER records sampled calls; None: no call is sampled.
    """

    def intercept(
        handler: Handler,
        describe: Describe = nothing_described,
        fallback: Fallback = no_fallback,
        *,
        stream: bool = False,
    ) -> Handler:
        begin = open_stream if stream else admit

        def counted(handler: Handler) -> Handler:
            admitted = begin(authenticate(handler, admission, present), admission, present, overload)
            return count_calls(replace_errors(admitted, fallback), counts)

        if recorder is None or stream:
            return convert_errors(log_failures(counted(handler)))
        recorded = record(counted(note_callers(handler, recorder)), describe, recorder)
        return sample(convert_errors(log_failures(recorded)), recorder, present)

    return intercept


def decision_methods(  # noqa: PLR0913  what they are made of
    service: RateLimitService,
    admission: Admission,
    intercept: DecisionInterceptor,
    unfinished: Unfinished,
    overload: OverloadControl,
    *,
    recorder: Recorder | None = None,
) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """The methods of RateLimitService. RECORDER records groups of checks on streams; None: none is sampled."""
    read = service.reader
    batch = unary(read.batch, service.batch_check_limit, unfinished, heavy=overload.heavy)
    grant = unary(read_grant, service.grant, unfinished, heavy=overload.heavy)
    decide: DecideGroup = service.decide_group
    if recorder is not None:
        decide = recorder.groups(f"/{RATE_LIMIT_SERVICE}/StreamCheckLimit", decide, describe_checks)

    def streamed(streams: Streams[Any]) -> Handler:
        return stream(streams, service.streams, admission)

    return _bound(
        RATE_LIMIT_SERVICE,
        {
            "CheckLimit": (_single, intercept(unary(read.check, service.check_limit, unfinished), describe_check)),
            "BatchCheckLimit": (_single, intercept(batch, describe_checks)),
            "SettleLimit": (_single, intercept(unary(read_settlement, service.settle_limit, unfinished))),
            "ExtendHold": (_single, intercept(unary(read_extension, service.extend_hold, unfinished))),
            "Grant": (_single, intercept(grant)),
            "StreamCheckLimit": (_streamed, intercept(streamed(check_streams(service, decide)), stream=True)),
            "StreamGrant": (_streamed, intercept(streamed(grant_streams(service, recorder)), stream=True)),
        },
    )


def envoy_methods(  # noqa: PLR0913, PLR0917  what they are made of
    rate_limits: EnvoyRateLimitService,
    authorization: EnvoyAuthorizationService,
    quotas: EnvoyQuotaService,
    admission: Admission,
    intercept: DecisionInterceptor,
    unfinished: Unfinished,
    overload: OverloadControl,
) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """The methods of Envoy's own protocols."""
    should_rate_limit = intercept(
        unary(rate_limits.read, rate_limits.should_rate_limit, unfinished, heavy=overload.heavy),
        describe_request,
        overload.fallback(rate_limits.fallback, OVER_LIMIT),
    )
    check = intercept(
        unary(authorization.read, authorization.check, unfinished),
        describe_authorization,
        overload.fallback(authorization.fallback, SERVICE_UNAVAILABLE),
    )
    assigned = intercept(quota_stream(quotas, admission), stream=True)
    return (
        _bound(ENVOY_RATE_LIMIT_SERVICE, {"ShouldRateLimit": (_single, should_rate_limit)})
        | _bound(ENVOY_AUTHORIZATION_SERVICE, {"Check": (_single, check)})
        | _bound(ENVOY_QUOTA_SERVICE, {"StreamRateLimitQuotas": (_streamed, assigned)})
    )


def admin_methods(  # noqa: PLR0913  what they are made of
    service: KeyAdminService,
    authenticator: Authenticator,
    counts: CallCounts,
    present: Present,
    unfinished: Unfinished,
    *,
    recorder: Recorder | None = None,
) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """The methods of KeyAdminService.

    A caller whose role can do nothing here is refused before its message is read, and only admins may send a large one.
    The others are served a few at a time.
    The methods check themselves which role an action needs. RECORDER records sampled calls; None: no call is sampled.
    """
    admission = Admission(authenticator, role=Role.VIEWER)

    turns = Turns()

    def method(
        request: type[_Request],
        call: Callable[[_Request, Caller], Awaitable[Serializable]],
        *,
        bounded: bool = False,
    ) -> _Bound:
        """BOUNDED: whether the method itself bounds how many of its calls are served at a time."""
        read = reader(request)

        async def answer(data: bytes, caller: Caller, _deadline: float | None) -> Serializable:
            return await call(await read(data), caller)

        async def take_turns(data: bytes, caller: Caller, deadline: float | None) -> Serializable:
            return await (answer(data, caller, deadline) if bounded else turns.take(answer(data, caller, deadline)))

        of_others = unary(bytes, take_turns, unfinished, MAX_MESSAGE)
        of_admins = unary(bytes, answer, unfinished, MAX_ADMIN_MESSAGE)

        async def handler(each: Call) -> bytes:
            return await (of_admins if each.caller.role is Role.ADMIN else of_others)(each)

        return _single, intercept(handler)

    def intercept(handler: Handler) -> Handler:
        if recorder is None:
            return convert_errors(log_calls(count_calls(authenticate(handler, admission, present), counts)))
        admitted = authenticate(note_callers(handler, recorder), admission, present)
        recorded = record(count_calls(admitted, counts), nothing_described, recorder)
        return sample(convert_errors(log_calls(recorded)), recorder, present)

    return _bound(
        KEY_ADMIN_SERVICE,
        {
            "ManageKey": method(admin_pb2.ManageKeyRequest, service.manage_key),
            "ManagePlan": method(admin_pb2.ManagePlanRequest, service.manage_plan),
            "ManageOverride": method(admin_pb2.ManageOverrideRequest, service.manage_override),
            "ManageRules": method(admin_pb2.ManageRulesRequest, service.manage_rules),
            "ExplainLimit": method(admin_pb2.ExplainLimitRequest, service.explain_limit),
            "ListAuditEvents": method(admin_pb2.ListAuditEventsRequest, service.list_audit_events),
            "QueryUsage": method(admin_pb2.QueryUsageRequest, service.query_usage, bounded=True),
            "SimulatePlan": method(simulation_pb2.SimulatePlanRequest, service.simulate_plan, bounded=True),
            "ListAlerts": method(alerts_pb2.ListAlertsRequest, service.list_alerts),
            "TestAlert": method(alerts_pb2.TestAlertRequest, service.test_alert),
            "ManageEnforcement": method(enforcement_pb2.ManageEnforcementRequest, service.manage_enforcement),
        },
    )


def health_methods(service: HealthService, present: Present) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """The methods of the health service, for whoever reaches the port; PRESENT finds on which connection.

    Unlike the library's own, they wait for the message of a call only for so long, and for so many.
    """
    unfinished = Unfinished()

    async def request(call: Call) -> health_pb2.HealthCheckRequest:
        data = await unfinished.read(call.context)
        if not isinstance(data, bytes):
            raise missing_message(call.method)
        if len(data) > MAX_MESSAGE:
            raise message_too_large(len(data))
        return parse(data, health_pb2.HealthCheckRequest)

    async def check(call: Call) -> bytes:
        return await service.check(await request(call), call.context)

    async def watch(call: Call) -> bytes:
        await service.watch(await request(call), call.context, present(call.context).peer_text)
        return b""

    return _bound(
        HEALTH_SERVICE, {"Check": (_single, convert_errors(check)), "Watch": (_streamed, convert_errors(watch))}
    )


def reflection_methods(services: Iterable[str], present: Present) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """The method of server reflection, which lists SERVICES and itself, for whoever reaches the port.

    In both of its versions, which are the same on the wire.
    """
    names = (REFLECTION_SERVICE, reflection.SERVICE_NAME)
    reflections = ReflectionService((*services, *names))

    async def reflect(call: Call) -> bytes:
        await reflections.reflect(call.context, present(call.context).peer_text)
        return b""

    info = {"ServerReflectionInfo": (_streamed, convert_errors(reflect))}
    return _bound(names[0], info) | _bound(names[1], info)


def methods_elsewhere(methods: Iterable[str], where: str) -> dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
    """METHODS that are served at another address, and here only say WHERE, to callers with a token or without."""

    async def refuse(call: Call) -> bytes:
        raise served_elsewhere(call.method, where)

    return {method: _streamed(method, convert_errors(refuse)) for method in methods}


def _bound(service: str, methods: Mapping[str, _Bound]) -> dict[str, Any]:
    paths = {f"/{service}/{name}": bind for name, bind in methods.items()}
    return {path: adapt(path, handler) for path, (adapt, handler) in paths.items()}


def _single(method: str, handler: Handler) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """HANDLER as a method with one response.

    Registered as one that takes a stream, because only then does the library let it respond to a caller that closes
    without having sent a message; it costs nothing.
    """

    async def handle(_requests: object, context: Context) -> bytes:
        return await handler(Call(method, context))

    return grpc.stream_unary_rpc_method_handler(handle)


def _streamed(method: str, handler: Handler) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """HANDLER as a method that takes a stream and responds with one."""

    async def handle(_requests: object, context: Context) -> None:
        await handler(Call(method, context))

    return grpc.stream_stream_rpc_method_handler(handle)


async def _not_served(call: Call) -> bytes:
    raise not_served(call.method)
