"""Denials as clients receive them."""

import json

from ratelimit_service.api.denial import denial_for
from ratelimit_service.decision.reason import Reason


def test_a_denial_by_limits_is_always_a_quota_problem() -> None:
    """It has the member violated-policies also where no limit was counted, as with a blocked one; others never do."""
    blocked = json.loads(denial_for(Reason.OVER_LIMIT, "", (), None).problem())
    assert blocked["type"].endswith("#quota-exceeded")
    assert blocked["violated-policies"] == []
    unknown = json.loads(denial_for(Reason.KEY_UNKNOWN, "", (), None).problem())
    assert unknown["type"] == "about:blank"
    assert "violated-policies" not in unknown
