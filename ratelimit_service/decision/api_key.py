"""API keys, and how their secrets are stored: as HMAC-SHA256 under a pepper that the database does not have."""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from zlib import crc32

from ratelimit_service.decision.record import SecretHash
from ratelimit_service.errors import InvalidArgument

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 16
_SECRET_LENGTH = 27  # 62^27 is a little over 2^160
_CRC_LENGTH = 6  # 62^6 is a little over 2^32
_FORM = re.compile(
    rf"rlk_([a-z0-9]{{1,12}})_([0-9A-Za-z]{{{_ID_LENGTH}}})"
    rf"_([0-9A-Za-z]{{{_SECRET_LENGTH}}})[0-9A-Za-z]{{{_CRC_LENGTH}}}"
)
MAX_LENGTH = len("rlk_") + 12 + 1 + _ID_LENGTH + 1 + _SECRET_LENGTH + _CRC_LENGTH
"""Characters of a key."""

_ENVIRONMENT = re.compile(r"[a-z0-9]{1,12}")
_ID = re.compile(rf"[0-9A-Za-z]{{{_ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in full. `key_id` is public; `secret` is shown once and never written anywhere, `repr` included.

    The last six characters are the CRC-32 of all before them in base62, so that a secret scanner, and a server without
    any lookup, can distinguish a key from garbage.
    """

    environment: str
    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls, environment: str, key_id: str = "") -> "ApiKey":
        """Make a key with a secret of 160 random bits, and an id of 95 unless KEY_ID is not empty."""
        return cls(environment, key_id or new_key_id(), _random(_SECRET_LENGTH))

    @classmethod
    def parse(cls, text: str) -> "ApiKey | None":
        """Read a key as its owner sent it. None when it is malformed or its checksum is wrong."""
        form = _FORM.fullmatch(text)
        if form is None or _checksum(text[:-_CRC_LENGTH]) != text[-_CRC_LENGTH:]:
            return None
        return cls(*form.groups())

    def __str__(self) -> str:
        """The key in full, for its owner only."""
        body = f"rlk_{self.environment}_{self.key_id}_{self.secret}"
        return body + _checksum(body)


def new_key_id() -> str:
    """Make a random key id."""
    return _random(_ID_LENGTH)


def is_environment(text: str) -> bool:
    """Whether TEXT can be the <env> of a key."""
    return _ENVIRONMENT.fullmatch(text) is not None


def is_key_id(text: str) -> bool:
    """Whether TEXT has the form of a key id."""
    return _ID.fullmatch(text) is not None


def check_key_id(key_id: str) -> None:
    """Raise InvalidArgument (field `key_id`) unless KEY_ID has the form of one."""
    if not is_key_id(key_id):
        raise malformed_key_id()


def malformed_key_id() -> InvalidArgument:
    """The error for a key id without the form of one.

    The message does not repeat the value, which may be a pasted API key in full, secret included.
    """
    return InvalidArgument.of(
        "key_id",
        f"is not a key id; send the {_ID_LENGTH} letters and digits after `rlk_<env>_`, never the key in full",
    )


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    rest = crc32(body.encode())
    digits = []
    for _ in range(_CRC_LENGTH):
        rest, digit = divmod(rest, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


_MIN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Peppers:
    """The server's HMAC keys by version. New secrets use the highest; older ones verify what was stored under them."""

    by_version: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Peppers":
        """Read `1:<base64>,2:<base64>`. Raises ValueError; its message names the problem but repeats no pepper."""
        by_version: dict[int, bytes] = {}
        for position, part in enumerate(text.split(","), start=1):
            version, colon, encoded = part.strip().partition(":")
            if not colon or not version.isascii() or not version.isdigit() or int(version) == 0:
                raise ValueError(f"pepper number {position} is not <version>:<base64>, with a version from 1")
            try:
                pepper = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise ValueError(f"pepper version {version} is not base64") from None
            if len(pepper) < _MIN_BYTES:
                raise ValueError(f"pepper version {version} has {len(pepper)} bytes; it needs {_MIN_BYTES} or more")
            if int(version) in by_version:
                raise ValueError(f"pepper version {version} occurs twice")
            by_version[int(version)] = pepper
        return cls(by_version)

    @classmethod
    def generate(cls) -> str:
        """Make one pepper of 32 random bytes as version 1, in the form that `parse` reads."""
        return "1:" + base64.b64encode(secrets.token_bytes(_MIN_BYTES)).decode()

    def derived(self, purpose: str) -> list[bytes]:
        """Keys for another PURPOSE, one from each pepper, that of the newest first."""
        newest_first = sorted(self.by_version.items(), reverse=True)
        return [hmac.digest(pepper, f"ratelimit-service {purpose}".encode(), "sha256") for _, pepper in newest_first]

    def hash(self, api_key: ApiKey) -> SecretHash:
        """The hash of a key's secret under the newest pepper, without an expiry."""
        version = max(self.by_version)
        return SecretHash(version, self._digest(version, api_key), environment=api_key.environment)

    def matches(self, api_key: ApiKey, secret_hash: SecretHash) -> bool:
        """Whether the key's secret is the hashed one, in constant time, and its <env> that of the secret, if known.

        False if its pepper is not among ours.
        """
        if secret_hash.pepper_version not in self.by_version:
            return False
        if secret_hash.environment not in (None, api_key.environment):
            return False
        return hmac.compare_digest(self._digest(secret_hash.pepper_version, api_key), secret_hash.digest)

    def _digest(self, version: int, api_key: ApiKey) -> bytes:
        # The id is hashed too, so that a hash copied to another key's row matches nothing.
        return hmac.digest(self.by_version[version], f"{api_key.key_id}:{api_key.secret}".encode(), "sha256")
