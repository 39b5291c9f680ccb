"""What a look at one thing found."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad it is: a server would not start or not work with a FAULT, and work but not well with a WARNING."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, what is the matter with it, and what to do. Holds no secret."""

    thing: str
    verdict: Verdict
    words: str

    @classmethod
    def ok(cls, thing: str, words: str) -> "Finding":
        """All is well."""
        return cls(thing, Verdict.OK, words)

    @classmethod
    def warning(cls, thing: str, words: str) -> "Finding":
        """It works, but not as it should."""
        return cls(thing, Verdict.WARNING, words)

    @classmethod
    def fault(cls, thing: str, words: str) -> "Finding":
        """It does not work."""
        return cls(thing, Verdict.FAULT, words)
