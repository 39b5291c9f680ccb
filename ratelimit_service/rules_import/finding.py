"""What an import has to say about a line."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """Whether the import goes on."""

    ERROR = "error"
    """Nothing is imported until this is put right."""
    NOTE = "note"
    """Something behaves differently here, or has no meaning here."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody who moves should know."""

    place: Place
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.severity.value}: {self.message}"


class Findings:
    """Collects findings, in the order in which they are met, each once."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def error(self, place: Place, message: str) -> None:
        """Add what keeps the import from going on."""
        self._add(Finding(place, Severity.ERROR, message))

    def note(self, place: Place, message: str) -> None:
        """Add what is different here."""
        self._add(Finding(place, Severity.NOTE, message))

    @property
    def refused(self) -> bool:
        """Whether there is an error among them."""
        return any(finding.severity is Severity.ERROR for finding in self.all)

    def _add(self, finding: Finding) -> None:
        if finding not in self.all:
            self.all.append(finding)
