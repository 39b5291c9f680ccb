"""Rows that cannot be read: each is named in the log, and counted by its table."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, TypeVar

import structlog

K = TypeVar("K")

_LOG_SECONDS: Final = 60.0
"""Between two log lines about the same row with the same problem."""

_CURRENT_SECONDS: Final = 30.0
"""For which a row counts as unreadable after it was last found so, unless it is read before. Those in use are read
again every few seconds."""

_MAX_ROWS: Final = 10_000
"""Rows that are remembered, in some 500 bytes each."""

_MAX_WHY: Final = 300

TABLES: Final = ("admin_tokens", "changes", "key_secrets", "keys", "overrides", "plan_versions", "rule_versions")
"""The tables that are reported. A plan's row counts as `plan_versions`, and a domain's as `rule_versions`."""

_log = structlog.get_logger(__name__)


class UnreadableRows:
    """What one process found unreadable. A row is found again with every read of it, and logged once a minute."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        """NOW is a monotonic time in seconds."""
        self._now = now
        self._logged: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._found: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.counts = dict.fromkeys(TABLES, 0)
        """How often one was found so far, by table."""

    def report(self, table: str, row: str, why: str) -> None:
        """Count and log that ROW, by its primary key or name, cannot be read. WHY must not have a secret.

        ROW is the same for all versions of a plan or domain: one of them is repaired by a new version.
        """
        now, why = self._now(), why if len(why) <= _MAX_WHY else why[:_MAX_WHY] + "..."
        self.counts[table] += 1
        _put(self._found, (table, row), now)
        problem = (table, row, why)
        logged = self._logged.get(problem)
        if logged is None or now - logged >= _LOG_SECONDS:
            _put(self._logged, problem, now)
            _log.error("a row cannot be read; what was valid last stays in force", table=table, row=row, why=why)

    def readable(self, table: str, row: str) -> None:
        """Note that ROW was read: it was never unreadable, or is repaired."""
        if self._found:
            self._found.pop((table, row), None)

    def current(self) -> Mapping[str, int]:
        """How many rows of each table are unreadable now, as far as they were read in the last half minute."""
        since = self._now() - _CURRENT_SECONDS
        counts = dict.fromkeys(TABLES, 0)
        for (table, _), found in self._found.items():
            if found >= since:
                counts[table] += 1
        return counts


def _put(times: OrderedDict[K, float], key: K, now: float) -> None:
    """Put a time at the end of TIMES, whose oldest make room."""
    times.pop(key, None)
    if len(times) >= _MAX_ROWS:
        times.popitem(last=False)
    times[key] = now
