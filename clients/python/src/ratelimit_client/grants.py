"""The count of what a client has decided by grants."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grants:
    """What a client in mode `granted` has decided and asked for since it was created. For your metrics.

    The hit ratio is `(allowed + denied) / (allowed + denied + waited)`.
    """

    allowed: int = 0
    """Calls that were allowed by units that the client had, without waiting."""
    denied: int = 0
    """Calls that were denied without waiting, because the service had denied units before."""
    waited: int = 0
    """Calls that waited for units, or were checked one by one."""
    requests: int = 0
    """Requests for units, and those that only return some. The checks of calls one by one are not in it."""
    granted: int = 0
    """Units that the service has granted. A unit is one call."""
    returned: int = 0
    """Units that were not spent, and that the client has returned before they expired."""
    expired: int = 0
    """Units that expired before they were spent. The client returns them, too, but the service may have counted them
    as spent."""
    held: int = 0
    """Units that the client has now."""
