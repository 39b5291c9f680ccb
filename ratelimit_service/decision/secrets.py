"""How secrets are kept: as HMAC-SHA256 under a pepper that the database does not have."""

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.record import SecretHash

_LEAST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Peppers:
    """The server's HMAC keys by version. New secrets use the highest; older ones verify what was stored under them."""

    by_version: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Peppers":
        """Read `1:<base64>,2:<base64>`. Raises ValueError, which says what is wrong without repeating a pepper."""
        by_version: dict[int, bytes] = {}
        for position, part in enumerate(text.split(","), start=1):
            version, colon, encoded = part.strip().partition(":")
            if not colon or not version.isascii() or not version.isdigit() or int(version) == 0:
                raise ValueError(f"pepper number {position} is not <version>:<base64>, with a version from 1")
            try:
                pepper = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise ValueError(f"pepper version {version} is not base64") from None
            if len(pepper) < _LEAST_BYTES:
                raise ValueError(f"pepper version {version} has {len(pepper)} bytes; it needs {_LEAST_BYTES} or more")
            if int(version) in by_version:
                raise ValueError(f"pepper version {version} is given twice")
            by_version[int(version)] = pepper
        return cls(by_version)

    @classmethod
    def generate(cls) -> str:
        """Make one pepper of 32 random bytes as version 1, in the form that `parse` reads."""
        return "1:" + base64.b64encode(secrets.token_bytes(_LEAST_BYTES)).decode()

    def hash(self, api_key: ApiKey) -> SecretHash:
        """The hash of a key's secret under the newest pepper, without an end."""
        version = max(self.by_version)
        return SecretHash(version, self._digest(version, api_key))

    def matches(self, api_key: ApiKey, secret_hash: SecretHash) -> bool:
        """Whether the key's secret is the hashed one, in constant time. False if its pepper is not among ours."""
        if secret_hash.pepper_version not in self.by_version:
            return False
        return hmac.compare_digest(self._digest(secret_hash.pepper_version, api_key), secret_hash.digest)

    def _digest(self, version: int, api_key: ApiKey) -> bytes:
        # The id is hashed along, so that a hash copied to another key's row opens nothing.
        return hmac.digest(self.by_version[version], f"{api_key.key_id}:{api_key.secret}".encode(), "sha256")
