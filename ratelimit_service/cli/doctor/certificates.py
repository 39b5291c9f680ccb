"""How much longer certificates are good for."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from ratelimit_service.cli.doctor.findings import Finding

CERTIFICATE_DAYS: Final = 14
"""Before its end from which on a certificate is a finding."""

_DAY: Final = timedelta(days=1)
_REMEDY: Final = "put a renewed one in its place, which is used at once"


def certificate_finding(where: str, ends: Sequence[datetime], now: datetime) -> Finding:
    """The finding on certificates that end at ENDS, at least one: they are good for as long as the first that ends.

    WHERE says, for an operator, which ones these are.
    """
    end = min(ends)
    left, at = (end - now) / _DAY, f"{end:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        return Finding.error("certificate", f"{where} ended at {at}: it is not accepted any more; {_REMEDY}")
    if left <= CERTIFICATE_DAYS:
        return Finding.warning("certificate", f"{where} ends in {left:.0f} days, at {at}; {_REMEDY}")
    return Finding.ok("certificate", f"{where} ends in {left:.0f} days")
