"""Secrets that people paste where a name is asked for: they go no further."""

import re
from typing import Final

KEY: Final = re.compile(r"(?:rlk_[a-z0-9]{1,12}_)?([0-9A-Za-z]{16})(?:_[0-9A-Za-z]*)?")
"""An API key in full, or its public id."""

_IN_TEXT: Final = re.compile(r"rlk_[a-z0-9]{1,12}_([0-9A-Za-z]{16})_[0-9A-Za-z]*")
_MAX_NESTED: Final = 4
_TOKEN: Final = re.compile(r"rlt_[0-9A-Za-z]{12}_[0-9A-Za-z]*")


def without_secret(text: str) -> str:
    """Return what may be repeated of a search: of an API key its public id, of a token nothing.

    People paste keys in full. The secret is dropped here, before anything is looked up, shown or put into an address.
    """
    text = text.strip()
    if _TOKEN.search(text):
        return ""
    key = KEY.fullmatch(text)
    if key is not None:
        return key[1]
    for _ in range(_MAX_NESTED):  # what is left of one may make another with what was around it
        if not _IN_TEXT.search(text):
            return "" if _TOKEN.search(text) else text
        text = _IN_TEXT.sub(r"\1", text)
    return ""


def has_secret(text: str) -> bool:
    """Whether an API key or a token, in full, is in a text."""
    return bool(_TOKEN.search(text) or _IN_TEXT.search(text))
