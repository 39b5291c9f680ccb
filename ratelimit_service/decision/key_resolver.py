"""From a key to its policy."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from ratelimit_service.decision.api_key import MAX_LENGTH, ApiKey, Peppers, check_key_id, is_key_id, malformed_key_id
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy_cache import Found, PolicyCache
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import LookupDeferred, ServiceError, Unavailable

_NO_LOOKUP = "Postgres is unavailable, and this key is not in memory; try again"  # a caller may be anybody


class KeyName(NamedTuple):
    """How a call names its key: as the caller presented it, or by its id, if that is not empty."""

    api_key: str
    key_id: str = ""


class KeyResolver:
    """Finds the policy of a key. Secrets are in memory for the duration of a call only; their digests are cached."""

    def __init__(self, policies: PolicyCache, peppers: Peppers) -> None:
        self._policies = policies
        self._peppers = peppers

    def verified(self, api_key: str) -> Policy | None:
        """The policy of a key that was verified before: no await, no parsing, and no digest of what is no key."""
        if len(api_key) > MAX_LENGTH:
            return None
        return self._policies.verified(_digest_of(api_key))

    async def resolve(self, api_key: str, deadline: float | None = None) -> Policy | None:
        """Verify a key and return its policy, or None if it is unknown or its secret is wrong.

        A malformed key is unknown, without any I/O. Raises Unavailable when Postgres cannot be read, and LookupDeferred
        when it could not be before DEADLINE, a monotonic time in seconds (None: within a second), or when the row of
        the secret may be one that is not valid.
        """
        parsed = ApiKey.parse(api_key)
        policy = None if parsed is None else await self._read(parsed.key_id, deadline)
        if parsed is None or policy is None:
            return None
        return self._verify(api_key, parsed, policy)

    async def resolve_all(
        self, names: Sequence[KeyName], deadline: float | None = None
    ) -> list[Policy | ServiceError | None]:
        """What `resolve` and `resolve_id` return or raise for each key of one call, which are read together.

        Raises Overloaded and DeadlineExceeded for a call that had to wait for its turn again.
        """
        parsed = [None if key_id else ApiKey.parse(api_key) for api_key, key_id in names]
        key_ids = dict.fromkeys(each.key_id for each in parsed if each is not None)
        key_ids |= dict.fromkeys(key_id for _, key_id in names if is_key_id(key_id))
        found = await self._policies.get_all(key_ids, deadline)
        return [self._find(name, each, found) for name, each in zip(names, parsed, strict=True)]

    async def resolve_id(self, key_id: str, deadline: float | None = None) -> Policy | None:
        """The policy of a key by its id, for a caller that verified the secret itself. None if there is no such key.

        Raises InvalidArgument when the id is malformed, and else as `resolve` does.
        """
        check_key_id(key_id)
        return await self._read(key_id, deadline)

    async def _read(self, key_id: str, deadline: float | None) -> Policy | None:
        try:
            return await self._policies.get(key_id, deadline)
        except StoreUnavailable as error:
            raise _no_lookup() from error

    def _find(self, name: KeyName, parsed: ApiKey | None, found: Mapping[str, Found]) -> Policy | ServiceError | None:
        """What was FOUND for a key. Errors are returned: one that is raised would hold the frame that holds it."""
        if name.key_id and not is_key_id(name.key_id):
            return malformed_key_id()
        if not name.key_id and parsed is None:
            return None
        policy = found[name.key_id if parsed is None else parsed.key_id]
        if isinstance(policy, StoreUnavailable):
            return _no_lookup()
        if policy is None or parsed is None or isinstance(policy, LookupDeferred):
            return policy
        try:
            return self._verify(name.api_key, parsed, policy)
        except LookupDeferred as error:
            return error

    def _verify(self, api_key: str, parsed: ApiKey, policy: Policy) -> Policy | None:
        """POLICY, if the key's secret is one of it. Raises LookupDeferred if that is not known."""
        if not any(self._peppers.matches(parsed, secret) for secret in policy.secrets):
            if policy.hides_secrets:
                raise LookupDeferred(f"a secret of key {parsed.key_id} cannot be read; see the server's log")
            return None
        self._policies.add_verified(_digest_of(api_key), policy)
        return policy


def _no_lookup() -> Unavailable:
    return Unavailable(_NO_LOOKUP, reason="POLICY_STORE_UNAVAILABLE")


def _digest_of(api_key: str) -> bytes:
    """The cache key of an API key. Its secret has too many bits to be guessed from this."""
    return blake2b(api_key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
