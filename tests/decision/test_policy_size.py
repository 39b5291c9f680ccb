"""What a policy takes, of which a worker has a hundred thousand."""

import gc
import tracemalloc

from decision.memory import START_US, burst, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.policy import Policy

KEYS = 500
MAX_BYTES = 820
"""Bytes beside its record, after calls for one resource: 770 on CPython 3.11."""


def test_a_policy_is_small() -> None:
    """No policy has a dict, a deque or a copy of its plan of its own."""
    plan = burst(5)
    records = [record(ApiKey.generate("live"), plan, subject=f"subject {number}") for number in range(KEYS)]
    policies = [Policy(each, START_US) for each in records[:1]]
    gc.collect()
    tracemalloc.start()
    policies += [Policy(each, START_US) for each in records]
    for policy in policies:
        policy.select("orders.create")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / KEYS < MAX_BYTES
