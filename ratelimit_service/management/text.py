"""What texts that callers choose freely may hold: subjects, descriptions, labels, and the ends of all names."""

import re
import unicodedata
from collections.abc import Mapping

from ratelimit_service.errors import InvalidArgument

_MAX_SUBJECT_BYTES = 128
_MAX_DESCRIPTION_BYTES = 256
_MAX_LABELS = 16
_MAX_LABEL_BYTES = 64
_LABEL = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INVISIBLE_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})  # white space, controls, zero width and bidi controls
_INVISIBLE_OTHERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol that are shown as blanks
_MAX_QUOTED = 40  # characters of each end that an error repeats


def check_subject(subject: str) -> None:
    """Raise InvalidArgument (field `subject`) unless it has 1 to 128 bytes and no control characters.

    Also raises what `check_ends` raises.
    """
    if not subject:
        raise InvalidArgument.of("subject", "is empty; name whom the limits apply to")
    _check("subject", subject, _MAX_SUBJECT_BYTES)
    check_ends("subject", subject)


def check_description(description: str) -> None:
    """Raise InvalidArgument (field `description`) unless it has at most 256 bytes and no control characters.

    It identifies nothing, so it is stored as it was sent, blanks at its ends included: what is read is what was sent.
    """
    _check("description", description, _MAX_DESCRIPTION_BYTES)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidArgument (field `labels`) unless there are at most 16, each of the form that Key documents.

    A name has 1 to 63 of `a-z 0-9 _ . -` and begins with a letter or digit. A value has at most 64 bytes and no control
    characters, may be empty, and is stored as it was sent.
    """
    if len(labels) > _MAX_LABELS:
        raise InvalidArgument.of("labels", f"has {len(labels)} entries; a key has at most {_MAX_LABELS} labels")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise InvalidArgument.of(
                "labels",
                f"has the name {name[:80]!r}; use 1 to 63 of a-z 0-9 _ - . and begin with a letter or digit",
            )
        _check(f"labels[{name}]", value, _MAX_LABEL_BYTES)


def check_subject_prefix(prefix: str) -> None:
    """Raise InvalidArgument (field `subject_prefix`) unless a subject can begin with PREFIX, or it is empty."""
    _check("subject_prefix", prefix, _MAX_SUBJECT_BYTES)


def check_filter(field: str, text: str, max_bytes: int) -> None:
    """Raise InvalidArgument unless TEXT has at most MAX_BYTES and no control characters. It may be empty."""
    _check(field, text, max_bytes)


def check_ends(field: str, name: str) -> None:
    """Raise InvalidArgument when NAME begins or ends with a blank or an invisible character. It may be empty.

    For names that identify something: `" acme"` would be another subject than `"acme"`, with other buckets, and look
    the same on every screen.
    """
    if name and (_is_invisible(name[0]) or _is_invisible(name[-1])):
        quoted = repr(name) if len(name) <= 2 * _MAX_QUOTED else f"{name[:_MAX_QUOTED]!r} ... {name[-_MAX_QUOTED:]!r}"
        raise InvalidArgument.of(field, f"begins or ends with a blank or invisible character; remove it: {quoted}")


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES or character in _INVISIBLE_OTHERS


def _check(field: str, text: str, max_bytes: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise InvalidArgument.of(field, f"has {size} bytes; at most {max_bytes} are allowed")
    if _CONTROL.search(text):
        raise InvalidArgument.of(field, "has control characters; remove them")
