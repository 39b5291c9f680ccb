"""Bounds of every text, whoever chose it: so many bytes, no control characters; and how errors quote one."""

import re
import unicodedata

from ratelimit_service.errors import InvalidArgument

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SECRET = re.compile(r"(rl[kt]_(?:[a-z0-9]{1,12}_)?[0-9A-Za-z]{12,16}_)[0-9A-Za-z]{20,}")
"""The secret of an API key or a token, after what may be shown of it."""
_MAX_QUOTED = 80
_UNNAMED = {
    "Cc": "a control character",
    "Cs": "half of a surrogate pair",
    "Co": "a private use character",
    "Cn": f"unassigned in Unicode {unicodedata.unidata_version}",
}


def check_text(field: str, text: str, max_bytes: int) -> None:
    """Raise InvalidArgument unless TEXT is at most MAX_BYTES of UTF-8 without control characters. It may be empty."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise InvalidArgument.of(field, f"has {size} bytes; at most {max_bytes} are allowed")
    control = _CONTROL.search(text)
    if control:
        raise InvalidArgument.of(
            field, f"has control characters, {code_point(control[0])} at character {control.start() + 1}; remove them"
        )


def has_secret(text: str) -> bool:
    """Whether an API key or a token is in TEXT, in full."""
    return "rl" in text and _SECRET.search(text) is not None


def without_secrets(text: str) -> str:
    """TEXT with the secrets of API keys and tokens left out."""
    return _SECRET.sub(r"\1...", text) if "rl" in text else text


def quoted(text: str) -> str:
    """The beginning of TEXT as errors quote it, with the first character that is not ASCII and may mislead."""
    foreign = next((character for character in text if not character.isascii()), None)
    return f"{without_secrets(text)[:_MAX_QUOTED]!r}" + (f", with {code_point(foreign)}" if foreign else "")


def code_point(character: str) -> str:
    """CHARACTER as errors name it, which never show it: `U+202E RIGHT-TO-LEFT OVERRIDE`."""
    name = unicodedata.name(character, "") or f"({_UNNAMED.get(unicodedata.category(character), 'without a name')})"
    return f"U+{ord(character):04X} {name}"
