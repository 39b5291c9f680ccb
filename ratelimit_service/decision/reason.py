"""The reason for a decision, and its source."""

from enum import IntEnum


class Reason(IntEnum):
    """Why a call was allowed or denied. The numbers are those of `ratelimit.v1.CheckLimitResponse.Reason`."""

    WITHIN_LIMIT = 1
    OVER_LIMIT = 2
    COST_EXCEEDS_CAPACITY = 3
    KEY_UNKNOWN = 4
    KEY_REVOKED = 5
    KEY_SUSPENDED = 6
    KEY_EXPIRED = 7
    DEGRADED_ALLOWED = 8
    DEGRADED_DENIED = 9


class Source(IntEnum):
    """What a decision is based on. The numbers are those of `ratelimit.v1.CheckLimitResponse.Source`."""

    STORE = 1
    POLICY = 2
    DEGRADED = 3
    UNENFORCED = 4
    MEMORY = 6
