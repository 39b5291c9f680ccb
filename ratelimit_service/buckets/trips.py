"""Watching the round trips to a bucket store."""

from typing import Protocol


class TripObserver(Protocol):
    """Told of each script that was sent with charges in it, on the hot path: it must cost next to nothing."""

    def answered(self, charges: int, seconds: float) -> None:
        """A script with so many charges was answered after so long."""
        ...

    def failed(self) -> None:
        """A script was not answered, or not as it should be."""
        ...


class Unobserved:
    """Nobody watches."""

    def answered(self, charges: int, seconds: float) -> None:
        """Nothing."""

    def failed(self) -> None:
        """Nothing."""
