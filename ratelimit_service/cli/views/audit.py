"""Audit events, as a person sees them."""

from collections.abc import Iterable

from google.protobuf.json_format import MessageToDict

from ratelimit_service._gen.ratelimit.v1.audit_pb2 import AuditEvent
from ratelimit_service.cli.moments import format_moment
from ratelimit_service.cli.output import print_table


def print_events(events: Iterable[AuditEvent]) -> None:
    """Print one line for each event."""
    print_table(
        ("TIME", "ACTOR", "ACTION", "TARGET", "DETAIL"),
        (
            (
                format_moment(event.time),
                event.actor,
                event.action,
                event.target,
                ", ".join(f"{name}={value}" for name, value in MessageToDict(event.detail).items()),
            )
            for event in events
        ),
    )
