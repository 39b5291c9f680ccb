"""What a bucket store observes of its nodes, and reports to a watcher."""

from collections.abc import Hashable
from typing import Final, Protocol


class Watcher(Protocol):
    """Gets reports of how the nodes of a store behave, whoever the callers are and however long they wait.

    Seconds are those that a node kept this process waiting: not the time in which the event loop was blocked. Nothing
    is reported of charges that are so large that a healthy node may need long for them, but for what fails.
    """

    @property
    def watching(self) -> bool:
        """Whether to report each reply; else only those that took a while."""
        ...

    def answered(self, node: Hashable, seconds: float) -> None:
        """NODE has replied after this time."""
        ...

    def unanswered(self, node: Hashable, seconds: float) -> None:
        """NODE has not replied for this time."""
        ...

    def failed(self, node: Hashable, reason: str, cause: object) -> None:
        """NODE could not be used. Several reports with one CAUSE, such as a connection, are one failure."""
        ...


class _Unwatched:
    """Does nothing."""

    watching = False

    def answered(self, node: Hashable, seconds: float) -> None:
        """Do nothing."""

    def unanswered(self, node: Hashable, seconds: float) -> None:
        """Do nothing."""

    def failed(self, node: Hashable, reason: str, cause: object) -> None:
        """Do nothing."""


UNWATCHED: Final = _Unwatched()
