"""Which keys to list, and what of a pasted API key may be searched for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.key import Standing
from ratelimit_service.management.plans import check_plan_name
from ratelimit_service.management.text import check_labels, check_stored_subject, check_subject_prefix

_MAX_SEARCH = 512
_ID_OF_KEY = re.compile(r"rlk_[a-z0-9]{1,12}_([0-9A-Za-z]{1,16})(?![0-9A-Za-z])")
_ID = re.compile(r"[0-9A-Za-z]{1,16}")


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys to list: those that every filter matches. An empty text or mapping, None and False match all.

    `standing` is the effective state when the list is read. A key must have all of `labels`, with these values.
    `key_id_prefix` is the beginning of a public id; see `public_part`. Times are microseconds since 1970 UTC: a key
    expires at or after `expires_after_us` and before `expires_before_us`, and was last used before `used_before_us`.
    `never_used` selects keys that were never used, and together with `used_before_us` those of either kind.
    """

    subject: str = ""
    plan: str = ""
    standing: Standing | None = None
    subject_prefix: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    expires_after_us: int | None = None
    expires_before_us: int | None = None
    used_before_us: int | None = None
    never_used: bool = False
    key_id_prefix: str = ""

    def check(self) -> None:
        """Raise InvalidArgument, which names the field, for a filter that no key can match."""
        if self.subject:
            check_stored_subject(self.subject)
        if self.plan:
            check_plan_name("plan", self.plan)
        check_subject_prefix(self.subject_prefix)
        check_labels(self.labels, stored=list(self.labels.values()))
        if self.key_id_prefix and not _ID.fullmatch(self.key_id_prefix):
            raise _no_public_part()

    @property
    def list_name(self) -> tuple[str, ...]:
        """Identify the list, for page tokens."""
        others = (
            "" if self.standing is None else self.standing.value,
            self.subject_prefix,
            *(part for label in sorted(self.labels.items()) for part in label),
            *(
                "" if time_us is None else str(time_us)
                for time_us in (self.expires_after_us, self.expires_before_us, self.used_before_us)
            ),
            "never" if self.never_used else "",
            self.key_id_prefix,
        )
        return "keys", self.subject, self.plan, *(others if any(others) else ())


ALL_KEYS = KeyFilter()
"""Matches every key."""


def public_part(text: str) -> str:
    """The beginning of the public id that TEXT names: `rlk_<env>_<id>`, an API key in full, or a part of an id.

    Empty for an empty text. Only the id is returned: a secret part of TEXT goes no further. Raises InvalidArgument
    (field `search`), which never repeats the text, when there is no id in it.
    """
    text = text[: _MAX_SEARCH + 1].strip()
    if not text:
        return ""
    if len(text) <= _MAX_SEARCH:
        if found := _ID_OF_KEY.search(text):
            return found[1]
        if _ID.fullmatch(text):
            return text
    raise _no_public_part()


def _no_public_part() -> InvalidArgument:
    return InvalidArgument.of(
        "search", "has no key id; send the first 1 to 16 letters and digits of one, or `rlk_<env>_<id>`"
    )
