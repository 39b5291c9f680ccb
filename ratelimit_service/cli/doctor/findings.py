"""The result of one check."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """With an ERROR a server would not start or not work; with a WARNING it works, but not well."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what is wrong with it, and what to do. Holds no secret."""

    subject: str
    severity: Severity
    message: str

    @classmethod
    def ok(cls, subject: str, message: str) -> "Finding":
        """Nothing is wrong."""
        return cls(subject, Severity.OK, message)

    @classmethod
    def warning(cls, subject: str, message: str) -> "Finding":
        """It works, but not well."""
        return cls(subject, Severity.WARNING, message)

    @classmethod
    def error(cls, subject: str, message: str) -> "Finding":
        """It does not work."""
        return cls(subject, Severity.ERROR, message)
