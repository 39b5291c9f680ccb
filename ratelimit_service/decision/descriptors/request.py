"""Descriptors: how a proxy describes a request, with the hits for each."""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit_service.decision.descriptors.rules import Blocked
from ratelimit_service.decision.limit import MAX_TOKENS, Quota
from ratelimit_service.errors import InvalidArgument

MAX_DESCRIPTORS = 128
"""Descriptors of one request."""

MAX_ENTRIES = 16
"""Entries of one descriptor."""

MAX_KEY_BYTES = 256
"""Length of a domain, and of an entry's key. Values are limited by the message size only: a path or a header that a
client made long must still be counted, because a proxy that fails open would let it through on an error."""

MAX_HITS = MAX_TOKENS
"""Hits of one descriptor: as many as the largest limit has tokens."""

API_KEY = "api_key"
"""The key of the entry that has a secret API key as its value: that key's plan applies."""

RESOURCE = "resource"
"""The key of the entry that may accompany it: the resource by which the plan's limits are selected."""

RESERVATION_ID = "reservation_id"
"""The key of the entry that has a reservation as its value, in a domain whose calls are held: its hits settle that."""

_API_KEY_ENTRIES = frozenset((API_KEY, RESOURCE))

Entries = tuple[tuple[str, str], ...]
"""Keys and values, in the order in which the rules are nested."""


class Descriptor(NamedTuple):
    """One descriptor of a request.

    `hits`: tokens to take, between -MAX_HITS and MAX_HITS; 0 is a peek, and a negative number refunds, at most up to
    an untouched bucket. `override` is a limit that the request brings along in place of the rules'. `has_hits`: whether
    they are the descriptor's own, and not those of the request.
    """

    entries: Entries
    hits: int = 1
    override: Quota | Blocked | None = None
    has_hits: bool = True

    @property
    def names_key(self) -> bool:
        """Whether the plan of an API key applies, rather than the rules."""
        for key, _ in self.entries:  # noqa: SIM110  a generator costs more, and this runs for every descriptor
            if key == API_KEY:
                return True
        return False


class DescribedRequest(NamedTuple):
    """A request as a proxy describes it: 1 to 128 descriptors, and the domain of the rules to apply."""

    domain: str
    descriptors: Sequence[Descriptor]


def check_request(request: DescribedRequest) -> None:
    """Raise InvalidArgument with the path of the invalid field unless the request is within bounds."""
    domain, descriptors = request
    if not domain:
        raise InvalidArgument.of("domain", "is empty; send the domain of the rules to apply")
    _check_length("domain", domain)
    if not 1 <= len(descriptors) <= MAX_DESCRIPTORS:
        raise InvalidArgument.of("descriptors", f"has {len(descriptors)} entries; send 1 to {MAX_DESCRIPTORS}")
    for index, descriptor in enumerate(descriptors):
        entries, hits, *_ = descriptor
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise InvalidArgument.of(
                f"descriptors[{index}].entries", f"has {len(entries)} entries; send 1 to {MAX_ENTRIES}"
            )
        for position, (key, _) in enumerate(entries):
            if not key or len(key) > MAX_KEY_BYTES or not key.isascii():
                _check_key(f"descriptors[{index}].entries[{position}].key", key)
        if not -MAX_HITS <= hits <= MAX_HITS:
            raise InvalidArgument.of(
                f"descriptors[{index}].hits_addend", f"is {hits}; it must be between -{MAX_HITS} and {MAX_HITS}"
            )


def key_and_resource(index: int, descriptor: Descriptor) -> tuple[str, str]:
    """The secret and the resource of a descriptor that names an API key. Raises InvalidArgument for any other entry."""
    if descriptor.override is not None:
        raise InvalidArgument.of(
            f"descriptors[{index}].limit", "cannot be combined with an api_key entry: the key's plan sets the limits"
        )
    if len(descriptor.entries) == 1:  # the common case: the API key alone
        return descriptor.entries[0][1], ""
    found: dict[str, str] = {}
    for position, (key, value) in enumerate(descriptor.entries):
        if key in found or key not in _API_KEY_ENTRIES:
            problem = (
                "a second time; send it once"
                if key in found
                else f"where only {RESOURCE} may accompany {API_KEY}; send it in another descriptor"
            )
            raise InvalidArgument.of(f"descriptors[{index}].entries[{position}].key", f"is {key!r} {problem}")
        found[key] = value
    return found[API_KEY], found.get(RESOURCE, "")


def _check_key(field: str, key: str) -> None:
    if not key:
        raise InvalidArgument.of(field, "is empty; each entry needs a key")
    _check_length(field, key)


def _check_length(field: str, text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_BYTES:
        raise InvalidArgument.of(field, f"has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
