"""What was spent in every window of time, however long, and whenever it began."""

from collections.abc import Iterable


def most_above(rate: float, spent: Iterable[tuple[float, float]]) -> float:
    """The most that was SPENT in any time T above RATE x T: of a limit that is kept no more than it holds.

    SPENT are times in seconds and tokens. A window that begins and ends with one of them has the most, and what it has
    above the rate is the difference of two sums, so that each is compared with the least before it alone.
    """
    in_order = sorted(spent)
    total = least = most = 0.0
    for at, tokens in in_order:
        drained = rate * (at - in_order[0][0])
        least = min(least, total - drained)
        total += tokens
        most = max(most, total - drained - least)
    return most
