"""Update masks."""

from google.protobuf.field_mask_pb2 import FieldMask

from ratelimit_service.doors.admin.fields import MOST_VIOLATIONS
from ratelimit_service.errors import FieldViolation, InvalidArgument


def to_paths(mask: FieldMask, allowed: tuple[str, ...]) -> frozenset[str]:
    """Return the paths of a mask. Raises InvalidArgument (field `update_mask`) when it is empty or names others."""
    paths = frozenset(mask.paths)
    choice = ", ".join(allowed)
    if not paths:
        raise InvalidArgument.of("update_mask", f"is empty; name what to change: {choice}")
    unknown = sorted(paths.difference(allowed))
    if unknown:
        faults = [f"names {path[:80]!r}; only {choice} can be changed" for path in unknown[:MOST_VIOLATIONS]]
        raise InvalidArgument(*(FieldViolation("update_mask", fault) for fault in faults))
    return paths
