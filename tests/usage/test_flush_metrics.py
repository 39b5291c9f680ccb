"""The metrics of the flush."""

from typing import NamedTuple

from ratelimit_service.metrics import FlushMetrics
from ratelimit_service.usage.tally import FlushTally


class Store(NamedTuple):
    """A bucket store that has counted everything."""

    lost: int = 0
    squeezed: int = 0


def test_counters_follow_the_tally() -> None:
    """Each export adds what was counted since the one before, for a cause of losses also where it is new."""
    tally = FlushTally(5_000_000)
    metrics = FlushMetrics(tally, Store(), lambda: True, lambda: 8_000_000)
    read = metrics.registry.get_sample_value
    for rows, gaps in ((3, 0), (3, 2), (7, 3)):
        tally.rows, tally.flush_seconds = rows, rows / 2
        if gaps:
            tally.losses["gap"] = gaps
        metrics.export()
        assert read("ratelimit_usage_rows_flushed_total") == rows
        assert read("ratelimit_usage_flush_seconds_total") == rows / 2
        assert read("ratelimit_usage_losses_total", {"cause": "gap"}) == (gaps or None)
    assert read("ratelimit_usage_leader") == 1
    assert read("ratelimit_usage_lag_seconds") == 3
