"""ListAuditEvents, and audit events as messages of `ratelimit.v1`."""

from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.ratelimit.v1 import audit_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ListAuditEventsRequest, ListAuditEventsResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import optional_time, time_to_proto
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.management.audit import AuditEvent, AuditFilter, AuditService
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller, Role


class ListAuditEvents:
    """Lists changes, newest first."""

    def __init__(self, audit: AuditService) -> None:
        self._audit = audit

    async def __call__(self, request: ListAuditEventsRequest, caller: Caller) -> ListAuditEventsResponse:
        """List a page of them, if the caller's role allows it. Raises ServiceError."""
        require(caller, Role.VIEWER)
        filters = _filter_from_proto(request)
        events, token = await read_page(
            Paging(request.page_size, request.page_token),
            lambda part: self._audit.list(part, filters),
            _event_to_proto,
        )
        return ListAuditEventsResponse(events=events, next_page_token=token)


def _filter_from_proto(request: ListAuditEventsRequest) -> AuditFilter:
    return AuditFilter(
        target=request.target,
        target_prefix=request.target_prefix,
        actor=request.actor,
        action=request.action,
        start_us=optional_time(request, "start_time"),
        end_us=optional_time(request, "end_time"),
    )


def _event_to_proto(recorded: AuditEvent) -> audit_pb2.AuditEvent:
    event = recorded.event
    detail, previous = Struct(), Struct()
    detail.update(event.detail)
    previous.update(event.previous)
    return audit_pb2.AuditEvent(
        event_id=recorded.event_id,
        time=time_to_proto(event.time_us),
        actor=event.actor,
        action=event.action,
        target=event.target,
        detail=detail,
        previous=previous if event.previous else None,
    )
