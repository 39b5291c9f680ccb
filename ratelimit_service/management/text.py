"""What texts that people type and read may hold: subjects, labels, descriptions, domains, rules and resources.

Two texts that look the same must be the same: another subject has other buckets. So what cannot be seen, what reorders
what is read, and what has a second spelling is refused, with its code point. Stored texts are never checked when they
are read, and may be sent again as they are: `stored` passes.

Unicode's own profiles of this are RFC 8264 and 8265 (PRECIS); where joiners are allowed is from RFC 5892, appendix A.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping
from functools import cache
from typing import Final

from ratelimit_service.decision.text import check_text, code_point, has_secret, quoted
from ratelimit_service.errors import InvalidArgument

_MAX_SUBJECT_BYTES: Final = 128
_MAX_DESCRIPTION_BYTES: Final = 256
_MAX_LABELS: Final = 16
_MAX_LABEL_BYTES: Final = 64
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U00016fe4\U0001d159")
"""Letters, marks and symbols that are shown as nothing or as a blank. Format characters (Cf) are so as well."""

_SEEN: Final = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that are seen: signs that enclose the digits after them."""

_SELECTORS: Final = re.compile(r"[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_EMOJI_STYLES: Final = "\ufe0e\ufe0f"
_KEYCAPS: Final = "0123456789#*"
_KEYCAP: Final = "\u20e3"
_OTHER_EMOJI: Final = "\u203c\u2049\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_ZWNJ: Final = "\u200c"
_ZWJ: Final = "\u200d"
_VIRAMA: Final = 9
_MAX_SPELLING: Final = 8  # code points of a spelling that an error shows


def check_subject(subject: str) -> None:
    """Raise InvalidArgument (field `subject`) unless it has 1 to 128 bytes and is a name, as `check_name` has it."""
    if not subject:
        raise InvalidArgument.of("subject", "is empty; name whom the limits apply to")
    check_text("subject", subject, _MAX_SUBJECT_BYTES)
    check_name("subject", subject)


def check_stored_subject(subject: str) -> None:
    """Raise InvalidArgument (field `subject`) unless it could be stored, by a version that checked names less too."""
    if not subject:
        raise InvalidArgument.of("subject", "is empty; name whom the limits apply to")
    check_text("subject", subject, _MAX_SUBJECT_BYTES)


def check_description(description: str, *, stored: Collection[str] = ()) -> None:
    """Raise InvalidArgument (field `description`) unless it has at most 256 bytes, all of which people can read.

    More than a name it may have blanks of any width, emoji with their style, and emoji that are joined.
    """
    check_text("description", description, _MAX_DESCRIPTION_BYTES)
    _check("description", description, stored, prose=True)


def check_labels(labels: Mapping[str, str], *, stored: Collection[str] = ()) -> None:
    """Raise InvalidArgument (field `labels`) unless there are at most 16, each of the form that Key documents.

    A name has 1 to 63 of `a-z 0-9 _ . -` and begins with a letter or digit. A value has at most 64 bytes, may be empty,
    and is a name as `check_name` has it.
    """
    if len(labels) > _MAX_LABELS:
        raise InvalidArgument.of("labels", f"has {len(labels)} entries; a key has at most {_MAX_LABELS} labels")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise InvalidArgument.of(
                "labels",
                f"has the name {quoted(name)}; use 1 to 63 of a-z 0-9 _ - . and begin with a letter or digit",
            )
        check_text(f"labels[{name}]", value, _MAX_LABEL_BYTES)
        check_name(f"labels[{name}]", value, stored=stored)


def check_subject_prefix(prefix: str) -> None:
    """Raise InvalidArgument (field `subject_prefix`) unless a stored subject can begin with PREFIX, or it is empty."""
    check_text("subject_prefix", prefix, _MAX_SUBJECT_BYTES)


def check_name(field: str, name: str, *, stored: Collection[str] = ()) -> None:
    """Raise InvalidArgument, with the code point, unless NAME reads as what it is. It may be empty.

    Of blanks it has U+0020 only, and none at its ends; nothing that is invisible or reorders what is read; no
    variation selectors; nothing unassigned or of private use; and it is in normalization form C.
    """
    _check(field, name, stored, prose=False)


def _check(field: str, text: str, stored: Collection[str], *, prose: bool) -> None:
    if text in stored:
        return
    if has_secret(text):
        raise InvalidArgument.of(field, "holds an API key or a token in full, which is a secret; leave it out")
    if text.isascii() and text.isprintable():
        problem = None
    else:
        problem = next((found for at in range(len(text)) if (found := _problem(text, at, prose=prose))), None)
    problem = problem or _problem_of_ends(text) or _problem_of_spelling(text)
    if problem:
        raise InvalidArgument.of(field, problem)


def _problem(text: str, at: int, *, prose: bool) -> str | None:
    """What is wrong with one character of a text, and what to do."""
    character = text[at]
    category = unicodedata.category(character)
    what = f"has {code_point(character)} at character {at + 1}"
    if category in {"Cc", "Cs", "Co", "Cn"}:
        return f"{what}; remove it"
    if character in _BIDI:
        return f"{what}, which reorders what is read; remove it"
    if category == "Zs" and character != " " and not prose:
        return f"{what}, which reads as a plain blank; send U+0020 SPACE in its place"
    if character in {_ZWNJ, _ZWJ}:
        seen = _joins(text, at) or (prose and _joins_emoji(text, at))
    elif _SELECTORS.fullmatch(character):
        seen = prose and character in _EMOJI_STYLES and _styles_emoji(text, at)
    else:
        seen = character in _SEEN or (category not in {"Cf", "Zl", "Zp"} and character not in _UNSEEN)
    return None if seen else f"{what}, which cannot be seen; remove it"


def _problem_of_ends(text: str) -> str | None:
    for verb, character in (("begins", text[:1]), ("ends", text[-1:])):
        if character and unicodedata.category(character) == "Zs":
            return f"{verb} with {code_point(character)}; remove it"
    return None


def _problem_of_spelling(text: str) -> str | None:
    """Whether TEXT is spelled as normalization form C has it; if not, the first piece to send in place of another."""
    if unicodedata.is_normalized("NFC", text):
        return None
    normal = unicodedata.normalize("NFC", text)
    start = next((at for at, (one, other) in enumerate(zip(text, normal, strict=False)) if one != other), len(normal))
    for end in range(start + 1, min(len(text), start + _MAX_SPELLING) + 1):
        piece = unicodedata.normalize("NFC", text[:end])
        if piece != text[:end] and normal.startswith(piece):
            sent, wanted = (
                " ".join(f"U+{ord(one):04X}" for one in part) for part in (text[start:end], piece[start:] or piece[-1:])
            )
            return f"is not in Unicode normalization form C (NFC): send {wanted} in place of {sent}"
    return "is not in Unicode normalization form C (NFC); send it normalized"


def _joins(text: str, at: int) -> bool:
    """Whether the joiner at a place changes how its neighbours look: after a virama, or between Arabic letters."""
    if not 0 < at < len(text) - 1:
        return False
    if unicodedata.combining(text[at - 1]) == _VIRAMA:
        return unicodedata.category(text[at + 1])[0] in "LM"
    forward, backward = _joining_letters()
    return text[at] == _ZWNJ and text[at - 1] in forward and text[at + 1] in backward


def _joins_emoji(text: str, at: int) -> bool:
    """Whether the joiner at a place stands between two symbols, such as those that make a family."""
    if text[at] != _ZWJ or not 0 < at < len(text) - 1:
        return False
    before = text[at - 2] if text[at - 1] in _EMOJI_STYLES and at > 1 else text[at - 1]
    return _is_emoji(before) and _is_emoji(text[at + 1])


def _styles_emoji(text: str, at: int) -> bool:
    """Whether the style at a place is that of the symbol before it, or makes a keycap of a digit."""
    before = text[at - 1 : at]
    return bool(before) and (_is_emoji(before) or (before in _KEYCAPS and text[at + 1 : at + 2] == _KEYCAP))


def _is_emoji(character: str) -> bool:
    """Whether a style or a joiner can follow: symbols, arrows, their skin tones, and two that are punctuation."""
    return unicodedata.category(character) in {"So", "Sm"} or character in _OTHER_EMOJI


@cache
def _joining_letters() -> tuple[frozenset[str], frozenset[str]]:
    """The Arabic letters that join the letter after them, and those that join the one before.

    By the presentation forms that Unicode has of each: initial and medial ones, and medial and final ones.
    """
    forms: dict[str, set[str]] = {"<initial>": set(), "<medial>": set(), "<final>": set()}
    for number in range(0xFB50, 0xFEFD):
        kind, *letters = unicodedata.decomposition(chr(number)).split() or [""]
        if kind in forms and len(letters) == 1:
            forms[kind].add(chr(int(letters[0], 16)))
    return frozenset(forms["<initial>"] | forms["<medial>"]), frozenset(forms["<final>"] | forms["<medial>"])
