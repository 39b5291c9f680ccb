"""Confirmations: changes that would refuse or let through much more than before are made only when they are confirmed.

The first attempt is refused with what it would do and a token; the second one sends the token. It is signed, and names
the change, the state that it was made against, who makes it, and when it ends: so nothing is stored, and nothing else
is confirmed by it.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from ratelimit_service.decision.limit import MICRO, Limit
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import FailedPrecondition

VALID_US: Final = 300 * MICRO
"""Microseconds for which a token confirms: five minutes."""

DEFAULT_KEYS: Final = 1_000
"""Keys that a change may touch without a confirmation."""

MAX_EFFECTS: Final = 8
"""Effects that an error names: it travels in trailers, which clients limit to a few kilobytes."""

_MAX_SENT: Final = 128


@dataclass(frozen=True, slots=True)
class Affected:
    """Whose calls a change is about: the keys on a plan, a subject, a key or a domain; the others are empty.

    `limits` are those that the plan would have; empty if that is not known.
    """

    plan: str = ""
    subject: str = ""
    key_id: str = ""
    domain: str = ""
    limits: Sequence[Limit] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A change that may have to be confirmed.

    `action` and `target` are those of its audit event. `content` is all that it changes, and `state` what that was made
    against: both only have to be the same for the same. `effects` are why it has to be confirmed, `keys` how many it
    touches.
    """

    actor: str
    action: str
    target: str
    content: Any
    state: Any
    effects: Sequence[str]
    keys: int
    affected: Affected


class ConfirmationRequired(FailedPrecondition):
    """The change has to be confirmed: `token` does, until `expires_us`, in microseconds since 1970 UTC."""

    def __init__(self, change: Change, effects: Sequence[str], token: str, expires_us: int) -> None:
        more = len(effects) - MAX_EFFECTS
        shown = [*effects[:MAX_EFFECTS], *[f"and {more} more"] * (more > 0)]
        super().__init__(
            f"{change.target} is changed only if that is confirmed, because {'; '.join(shown)}",
            reason="CONFIRMATION_REQUIRED",
            metadata={"confirmation": token, "keys": str(change.keys)},
        )
        self.target = change.target
        self.effects: Sequence[str] = shown
        self.token = token
        self.expires_us = expires_us
        self.affected = change.affected
        self.usage = ""

    def add_usage(self, words: str) -> None:
        """Add what the change would have meant for calls that were counted."""
        self.usage = words
        self.metadata = {**self.metadata, "usage": words}


class Confirmations:
    """Requires confirmations, and checks them."""

    def __init__(self, secrets: Sequence[bytes], clock: Clock, *, keys: int = DEFAULT_KEYS) -> None:
        """SECRETS sign tokens, the first one new ones. More than so many KEYS may not be touched unconfirmed."""
        self._secrets = secrets
        self._clock = clock
        self._keys = keys

    def require(self, change: Change, sent: str) -> None:
        """Raise ConfirmationRequired if CHANGE has to be confirmed, unless the token that was SENT does."""
        effects = list(change.effects)
        if change.keys > self._keys:
            effects.append(f"it touches {change.keys:,} keys, more than {self._keys:,}")
        if not effects:
            return
        now_us = self._clock.now_us()
        if self._confirms(sent, change, now_us):
            return
        expires_us = now_us + VALID_US
        token = f"{expires_us:x}.{_signature(self._secrets[0], change, expires_us)}"
        raise ConfirmationRequired(change, effects, token, expires_us)

    def _confirms(self, sent: str, change: Change, now_us: int) -> bool:
        expires, _, signature = sent[:_MAX_SENT].partition(".")
        try:
            expires_us = int(expires, 16)
        except ValueError:
            return False
        valid = any(
            hmac.compare_digest(_signature(secret, change, expires_us).encode(), signature.encode("utf-8", "replace"))
            for secret in self._secrets
        )
        return valid and now_us < expires_us


class Unconfirmed:
    """Requires none, for those who make changes by themselves."""

    def require(self, change: Change, sent: str) -> None:
        """Let it pass."""


def _signature(secret: bytes, change: Change, expires_us: int) -> str:
    signed = (change.actor, change.action, change.target, change.content, change.state, expires_us)
    digest = sha256(repr(signed).encode("utf-8", "surrogatepass")).digest()
    return hmac.digest(secret, digest, "sha256").hex()[:32]
