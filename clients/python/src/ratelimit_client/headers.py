"""The headers that tell a caller its limits, in three styles."""

from datetime import timedelta
from enum import Enum

from .decision import Decision, WeighedLimit

_SECOND = timedelta(seconds=1)


class HeaderStyle(Enum):
    """Which headers tell a caller its limits."""

    IETF = "ietf"
    """`RateLimit-Policy` and `RateLimit` with every limit: draft-ietf-httpapi-ratelimit-headers-11."""
    X_RATELIMIT = "x-ratelimit"
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit."""
    RATELIMIT = "ratelimit"
    """`RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit."""


def limit_headers(decision: Decision, style: HeaderStyle) -> dict[str, str]:
    """The headers for DECISION: its limits in STYLE, and `Retry-After` on a denial that a wait will end.

    Times are whole seconds from now, rounded up. Limits in mode shadow are left out.
    """
    headers = _STYLES[style](decision)
    wait = retry_after_seconds(decision)
    if wait is not None:
        headers["Retry-After"] = str(wait)
    return headers


def retry_after_seconds(decision: Decision) -> int | None:
    """The `Retry-After` of a denial, not earlier than what the binding limit's headers say. None when it has none."""
    if decision.allowed or decision.retry_after is None:
        return None
    binding = decision.binding
    shown = _wait(binding) if binding is not None and binding.would_deny else 0
    return max(_whole_seconds(decision.retry_after), shown)


def _ietf(decision: Decision) -> dict[str, str]:
    limits = decision.enforced
    if not limits:
        return {}
    return {
        "RateLimit-Policy": ", ".join(
            f'"{limit.name}";q={limit.limit};w={max(1, _whole_seconds(limit.window))}' for limit in limits
        ),
        "RateLimit": ", ".join(f'"{limit.name}";r={limit.remaining};t={_wait(limit)}' for limit in limits),
    }


def _x_ratelimit(decision: Decision) -> dict[str, str]:
    return _trio(decision, "X-RateLimit-")


def _ratelimit(decision: Decision) -> dict[str, str]:
    return _trio(decision, "RateLimit-")


def _trio(decision: Decision, prefix: str) -> dict[str, str]:
    binding = decision.binding
    if binding is None:
        return {}
    return {
        f"{prefix}Limit": str(binding.limit),
        f"{prefix}Remaining": str(binding.remaining),
        f"{prefix}Reset": str(_wait(binding)),
    }


def _wait(limit: WeighedLimit) -> int:
    """The seconds that the headers of one limit tell."""
    denies_for = limit.retry_after if limit.would_deny else None
    return _whole_seconds(limit.reset_after if denies_for is None else denies_for)


def _whole_seconds(wait: timedelta) -> int:
    return -(-wait // _SECOND)


_STYLES = {HeaderStyle.IETF: _ietf, HeaderStyle.X_RATELIMIT: _x_ratelimit, HeaderStyle.RATELIMIT: _ratelimit}
