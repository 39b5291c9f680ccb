"""What the flush of usage counts about itself, for metrics."""

from collections import Counter


class FlushTally:
    """Plain numbers. Those that only grow begin at 0 with the process."""

    def __init__(self, now_us: int) -> None:
        self.covered_us = now_us
        """The time up to which all that was counted is in the archive, but for open minutes; as far as is known."""
        self.backlog_segments = 0
        self.backlog_bytes = 0
        self.rows = 0
        """Counts of a series in a minute that were flushed."""
        self.segments = 0
        self.merged_segments = 0
        """Of these, those that span more than a minute."""
        self.other_calls = 0
        """Calls counted as resource `other`."""
        self.losses: Counter[str] = Counter()
        """Losses, by cause."""
        self.raises: Counter[str] = Counter()
        """Quotas of keys that were raised by usage after the store had lost its data, by what became of them."""
        self.lost_calls = 0
        """Calls that are known to be lost."""
        self.unreadable = 0
        """Counters that could not be read."""
        self.flushes = 0
        """Transactions that moved segments."""
        self.flush_seconds = 0.0
        """The time that they took, from the first read to the last removal."""

    def cover(self, now_us: int) -> None:
        """Another process leads, and reports what it has not flushed: there is nothing to report here."""
        self.covered_us = now_us
        self.backlog_segments = self.backlog_bytes = 0
