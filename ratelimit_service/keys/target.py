"""Whose overrides: those of one key, or of one subject and so of all its keys."""

from dataclasses import dataclass

from ratelimit_service.decision.api_key import check_key_id
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import ChangeKind
from ratelimit_service.keys.text import check_subject


@dataclass(frozen=True, slots=True)
class KeyTarget:
    """The overrides of one key. Raises InvalidArgument (field `key_id`) for what cannot be a key's id."""

    key_id: str

    def __post_init__(self) -> None:
        check_key_id(self.key_id)

    @property
    def level(self) -> Level:
        """Where the overrides are set."""
        return Level.KEY

    @property
    def kind(self) -> ChangeKind:
        """What kind of policies a change touches."""
        return ChangeKind.KEY

    @property
    def name(self) -> str:
        """The key's id."""
        return self.key_id

    @property
    def target(self) -> str:
        """The name in audit events."""
        return f"keys/{self.key_id}"


@dataclass(frozen=True, slots=True)
class SubjectTarget:
    """The overrides of one subject. Raises InvalidArgument (field `subject`) for what cannot be a subject."""

    subject: str

    def __post_init__(self) -> None:
        check_subject(self.subject)

    @property
    def level(self) -> Level:
        """Where the overrides are set."""
        return Level.SUBJECT

    @property
    def kind(self) -> ChangeKind:
        """What kind of policies a change touches."""
        return ChangeKind.SUBJECT

    @property
    def name(self) -> str:
        """The subject."""
        return self.subject

    @property
    def target(self) -> str:
        """The name in audit events."""
        return f"subjects/{self.subject}"


OverrideTarget = KeyTarget | SubjectTarget
