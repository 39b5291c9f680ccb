"""The made-up data of these tests and of the screenshots agree with themselves."""

import psycopg

from browser.conftest import Console

_SUMS = " UNION ALL ".join(
    f"SELECT sum(allowed), sum(denied), sum(cost), sum(shadow_denied), sum(degraded) FROM usage_{family}{level}"
    for family in ("", "plan_")
    for level in ("minute", "hour", "day")
)
_BY_LIMIT = " UNION ALL ".join(
    f"SELECT sum(denied), sum(shadow_denied) FROM usage_limit_{level}" for level in ("minute", "hour", "day")
)


def test_all_levels_of_usage_agree(console: Console) -> None:
    """Minutes, hours, days and plans have the same sums, and what limits denied is what was denied."""
    with psycopg.connect(console.server.settings.database_url.get_secret_value()) as connection:
        sums = connection.execute(_SUMS.encode()).fetchall()
        by_limit = connection.execute(_BY_LIMIT.encode()).fetchall()
    assert len(set(sums)) == 1
    assert len(set(by_limit)) == 1
    _, denied, _, shadow_denied, degraded = sums[0]
    assert by_limit[0] == (denied, shadow_denied)
    assert degraded > 0
