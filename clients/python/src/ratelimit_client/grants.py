"""The count of what a client has decided by grants."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Grants:
    """What a client in mode `granted` has decided and asked for since it was created. For your metrics.

    The hit ratio is `(allowed + denied) / (allowed + denied + waited)`.
    """

    allowed: int = 0
    """Calls allowed by units that the client had, without waiting."""
    denied: int = 0
    """Calls denied because the service had denied units to calls before, without waiting."""
    waited: int = 0
    """Calls that waited for units, or were checked one by one."""
    requests: int = 0
    """Requests for units, or that only returned some. Not the checks of calls one by one."""
    granted: int = 0
    """Units granted by the service."""
    returned: int = 0
    """Units that were not spent, and that the service took back."""
    expired: int = 0
    """Units that expired before they were spent. The service takes back what it can."""
    held: int = 0
    """Units that the client has now."""

    def since(self, before: "Grants") -> "Grants":
        """How much each number has changed since it was as BEFORE."""
        return Grants(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))
