"""What an import reports about the lines of the files."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """Whether a finding stops the import."""

    ERROR = "error"
    """Nothing is imported until this is fixed."""
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
    """One error or difference, and its line."""

    place: Place
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.severity.value}: {self.message}"


class Findings:
    """Collects findings, each once."""

    def __init__(self) -> None:
        self._by_file: dict[str, dict[Finding, None]] = {}  # an ordered set for each
        self.has_errors = False
        """Whether any of them is an error."""

    @property
    def all(self) -> list[Finding]:
        """File by file in the order in which they were read, and each file's by line."""
        return [
            finding
            for findings in self._by_file.values()
            for finding in sorted(findings, key=lambda finding: finding.place.line)
        ]

    def error(self, place: Place, message: str) -> None:
        """Add an error, which stops the import."""
        self._add(Finding(place, Severity.ERROR, message))

    def note(self, place: Place, message: str) -> None:
        """Add a difference."""
        self._add(Finding(place, Severity.NOTE, message))

    def _add(self, finding: Finding) -> None:
        self.has_errors = self.has_errors or finding.severity is Severity.ERROR
        self._by_file.setdefault(finding.place.file, {})[finding] = None
