"""From a key to its policy."""

from hashlib import blake2b

from ratelimit_service.decision.api_key import ApiKey, Peppers, check_key_id
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable


def digest_of(data: bytes) -> bytes:
    """16 bytes by which DATA is known again, and from which nobody finds it: a secret has too many bits to be tried."""
    return blake2b(data, digest_size=16).digest()


class Identifier:
    """Finds the policy of a key. Secrets are in memory for the length of a call only: afterwards, their digests."""

    def __init__(self, policies: PolicyCache, peppers: Peppers) -> None:
        self._policies = policies
        self._peppers = peppers

    def recall(self, api_key: str) -> Policy | None:
        """The policy of a key whose secret was verified before: no await, no parsing."""
        return self._policies.verified(digest_of(api_key.encode()))

    async def identify(self, api_key: str) -> Policy | None:
        """The policy of a key that is seen for the first time, or None if it is unknown or its secret is wrong.

        Raises InvalidArgument when it is malformed, and Unavailable when its policy cannot be read.
        """
        parsed = ApiKey.parse(api_key)
        policy = await self._read(parsed.key_id)
        if policy is None or not any(self._peppers.matches(parsed, secret) for secret in policy.secrets):
            return None
        self._policies.remember(digest_of(api_key.encode()), policy)
        return policy

    async def find(self, key_id: str) -> Policy | None:
        """The policy of a key by its id, for a caller who verified the secret, or None if there is no such key.

        Raises InvalidArgument when it is malformed, and Unavailable when its policy cannot be read.
        """
        check_key_id(key_id)
        return await self._read(key_id)

    async def _read(self, key_id: str) -> Policy | None:
        try:
            return await self._policies.get(key_id)
        except StoreUnavailable as fault:
            raise Unavailable(str(fault), reason="POLICY_STORE_UNAVAILABLE") from fault
