"""Audit events as messages of `ratelimit.v1`. The only place that knows both."""

from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.ratelimit.v1 import audit_pb2
from ratelimit_service.doors.admin.times import from_time_us
from ratelimit_service.keys.audit import AuditEvent


def from_audit_event(recorded: AuditEvent) -> audit_pb2.AuditEvent:
    """Return the message of an audit event."""
    event = recorded.event
    detail = Struct()
    detail.update(event.detail)
    return audit_pb2.AuditEvent(
        event_id=recorded.event_id,
        time=from_time_us(event.time_us),
        actor=event.actor,
        action=event.action,
        target=event.target,
        detail=detail,
    )
