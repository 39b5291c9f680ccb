"""The HTTP headers with a caller's limits, in three styles."""

from datetime import timedelta
from enum import Enum

from .decision import Decision, LimitResult

_SECOND = timedelta(seconds=1)


class HeaderStyle(Enum):
    """Which headers a caller gets."""

    IETF = "ietf"
    """`RateLimit-Policy` and `RateLimit` with every limit: draft-ietf-httpapi-ratelimit-headers-11."""
    X_RATELIMIT = "x-ratelimit"
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit. Reset is in seconds from now."""
    RATELIMIT = "ratelimit"
    """The same three without `X-`."""


def limit_headers(decision: Decision, style: HeaderStyle = HeaderStyle.IETF) -> dict[str, str]:
    """The headers for a decision: its limits in STYLE, and `Retry-After` on a denial that ends after a wait.

    Seconds are rounded up. Limits in mode shadow are left out.
    """
    headers = _all_limits(decision) if style is HeaderStyle.IETF else _binding_limit(decision, style)
    seconds = retry_after_seconds(decision)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    return headers


def retry_after_seconds(decision: Decision) -> int | None:
    """The `Retry-After` of a denial, not before what the headers have for the binding limit. None when it has none."""
    if decision.allowed or decision.retry_after is None:
        return None
    binding = _binding(decision)
    wait = _seconds_to_wait(binding) if binding is not None and binding.would_deny else 0
    return max(_whole_seconds(decision.retry_after), wait)


def enforced_limits(decision: Decision) -> list[LimitResult]:
    """The limits that can deny, in the plan's order."""
    return [limit for limit in decision.limits if not limit.shadow]


def _all_limits(decision: Decision) -> dict[str, str]:
    limits = enforced_limits(decision)
    if not limits:
        return {}
    # A name has only a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured field.
    return {
        "RateLimit-Policy": ", ".join(
            f'"{limit.name}";q={limit.limit};w={max(1, _whole_seconds(limit.window))}' for limit in limits
        ),
        "RateLimit": ", ".join(
            f'"{limit.name}";r={max(0, limit.remaining)};t={_seconds_to_wait(limit)}' for limit in limits
        ),
    }


def _binding_limit(decision: Decision, style: HeaderStyle) -> dict[str, str]:
    limit = _binding(decision)
    if limit is None:
        return {}
    prefix = "X-RateLimit-" if style is HeaderStyle.X_RATELIMIT else "RateLimit-"
    return {
        f"{prefix}Limit": str(limit.limit),
        f"{prefix}Remaining": str(max(0, limit.remaining)),
        f"{prefix}Reset": str(_seconds_to_wait(limit)),
    }


def _binding(decision: Decision) -> LimitResult | None:
    return next((limit for limit in enforced_limits(decision) if limit.name == decision.limit), None)


def _seconds_to_wait(limit: LimitResult) -> int:
    """Until the limit no longer denies, or otherwise until it is back to its full amount."""
    denies_for = limit.retry_after if limit.would_deny else None
    return _whole_seconds(limit.reset_after if denies_for is None else denies_for)


def _whole_seconds(wait: timedelta) -> int:
    return -(-wait // _SECOND)
