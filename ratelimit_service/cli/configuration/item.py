"""One thing that is configured: a plan, the rules of a domain, a key or an override, as the server returns it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageOverrideResponse
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service._gen.ratelimit.v1.rules_pb2 import DomainRules
from ratelimit_service.cli.yaml_text import document_of

M = TypeVar("M", bound=Message)

SetFor = ManageOverrideResponse.OverridePage.SetFor


class Kind(StrEnum):
    """What `kind` may be in a document, in the order in which changes are made: each needs only those before it."""

    PLAN = "Plan"
    RULES = "Rules"
    KEY = "Key"
    OVERRIDE = "Override"


@dataclass(frozen=True)
class Item:
    """A plan (Plan), the rules of a domain (DomainRules), a key (Key) or an override (SetFor), by its kind.

    The message has what can be configured, in the form in which the server returns it, and nothing that the server
    sets, so that two are the same if their messages are equal. `etag` is that of the server, if it has one; `place` is
    the file and line of an item that was read from a file.
    """

    kind: Kind
    message: Message
    etag: str = ""
    place: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What it is called in audit events, in the command line's output, and in errors: `plans/free`."""
        match self.message:
            case Plan():
                return f"plans/{self.message.name}"
            case DomainRules():
                return f"domains/{self.message.domain}"
            case Key():
                return f"keys/{self.message.key_id}"
        return f"{target_of(self.set_for)}/overrides/{self.set_for.override.limit.name}"

    @property
    def plan(self) -> Plan:
        """The message of a plan."""
        return self._of(Plan)

    @property
    def rules(self) -> DomainRules:
        """The message of the rules of a domain."""
        return self._of(DomainRules)

    @property
    def key(self) -> Key:
        """The message of a key."""
        return self._of(Key)

    @property
    def set_for(self) -> SetFor:
        """The message of an override."""
        return self._of(SetFor)

    @property
    def document(self) -> dict[str, Any]:
        """The item as a document that `apply` reads."""
        if self.kind is not Kind.OVERRIDE:
            return {"kind": self.kind.value, **document_of(self.message)}
        fields = document_of(self.message)
        override = fields.pop("override")
        return {"kind": self.kind.value, **fields, **override}

    def _of(self, kind: type[M]) -> M:
        if not isinstance(self.message, kind):
            raise TypeError(f"{self.kind} is not a {kind.__name__}")
        return self.message


def target_of(set_for: SetFor) -> str:
    """What an override is set for: `keys/<key_id>` or `subjects/<subject>`."""
    return f"keys/{set_for.key_id}" if set_for.HasField("key_id") else f"subjects/{set_for.subject}"
