"""What was spent in every window of time, however long, and whenever it began."""

from collections.abc import Iterable


def most_above(rate: float, spent: Iterable[tuple[float, float]]) -> float:
    """The most that was SPENT in any time T above RATE x T: of a limit that is kept no more than it holds.

    SPENT are times in seconds and tokens. A window that begins and ends with one of them has the most, and what it has
    above the rate is the difference of two sums, so that each is compared with the least before it alone.
    """
    total = most = 0.0
    least: float | None = None
    for at, tokens in sorted(spent):
        before = total - rate * at
        least = before if least is None else min(least, before)
        total += tokens
        most = max(most, total - rate * at - least)
    return most
