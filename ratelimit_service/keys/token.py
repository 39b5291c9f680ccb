"""Tokens that callers of the control plane authenticate with: `rlt_<id>_<secret>`."""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from ratelimit_service.keys.caller import ANONYMOUS, Caller, Role

__all__ = ["ANONYMOUS", "Caller", "Role", "StoredToken", "Token"]

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 32  # 62^32 is a little over 2^190
_FORM = re.compile(rf"rlt_([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token in full, as its holder has it. Shown once and never written anywhere, `repr` included."""

    token_id: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Token":
        """Make a token with a secret of 190 random bits."""
        return cls(_random(_ID_LENGTH), _random(_SECRET_LENGTH))

    @classmethod
    def parse(cls, text: str) -> "Token | None":
        """Read a token as its holder sent it. None when it is malformed."""
        form = _FORM.fullmatch(text)
        return None if form is None else cls(*form.groups())

    def __str__(self) -> str:
        """The token in full, for its holder only."""
        return f"rlt_{self.token_id}_{self.secret}"

    def digest(self) -> bytes:
        """What is stored of it: SHA-256, which is enough for a secret that is random and long."""
        return sha256(str(self).encode()).digest()


@dataclass(frozen=True, slots=True)
class StoredToken:
    """What is known of a token. Times are microseconds since 1970 UTC; `revoked_us` is None while it is good."""

    token_id: str
    name: str
    role: Role
    digest: bytes = field(repr=False)
    created_us: int
    revoked_us: int | None = None

    def is_good_for(self, token: Token) -> bool:
        """Whether TOKEN is this one and was not revoked. Compares in constant time."""
        return hmac.compare_digest(self.digest, token.digest()) and self.revoked_us is None

    @property
    def holder(self) -> Caller:
        """Who calls with it."""
        return Caller(self.name, self.role)


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))
