"""Ids of keys, as admins send them."""

from ratelimit_service.decision.api_key import check_key_id
from ratelimit_service.errors import InvalidArgument


def require_key_id(key_id: str) -> None:
    """Raise InvalidArgument (field `key_id`) unless KEY_ID has the form of one.

    What was sent is not repeated: an admin may have pasted the API key in full, secret included.
    """
    try:
        check_key_id("key_id", key_id)
    except InvalidArgument:
        raise InvalidArgument.of(
            "key_id", "is not one; it is the 16 letters and digits after `rlk_<env>_`, and never the key in full"
        ) from None
