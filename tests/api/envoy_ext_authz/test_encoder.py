"""Decisions as responses of Envoy's authorization protocol."""

import json

from ratelimit_service.api.denial import as_problem
from ratelimit_service.api.envoy_ext_authz.encoder import CheckResponseEncoder
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.decision.outcome import UNDECIDED
from ratelimit_service.errors import Code


def test_a_call_that_was_not_decided_in_time() -> None:
    """503 with Retry-After, never an error that opens the gate, and nothing that identifies a key."""
    response = CheckResponseEncoder(LimitHeaders("ietf"), "x-api-key").encode(UNDECIDED, as_problem)
    denied = response.denied_response
    assert (denied.status.code, response.status.code) == (503, Code.UNAVAILABLE)
    assert {option.header.key: option.header.value for option in denied.headers}["retry-after"] == "1"
    assert json.loads(denied.body)["reason"] == "DEGRADED_DENIED"
    assert set(response.dynamic_metadata.fields) == {"allowed", "reason"}
