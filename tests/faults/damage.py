"""Values that no API would write, for every column that decisions are made by, and what must come of each."""

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from random import Random
from typing import Any, NamedTuple

FAR = "'294000-01-01'"
ODD_TEXTS = ("''", "NULL", "repeat('x', 300)", "E'a\\x01b'")
ODD_TIMES = ("'infinity'", FAR, "'-infinity'", "'0044-03-15 BC'")
DEEP = "(repeat('[', 5000) || repeat(']', 5000))::jsonb"


class Effect(Enum):
    """What a damaged row means for the decisions that it is part of."""

    REFUSED = auto()
    """It cannot be read: what was valid last stays in force; without that, calls are denied."""
    NONE = auto()
    """It says nothing that decisions are made by."""
    REVOKED = auto()
    SUSPENDED = auto()
    EXPIRED = auto()
    SECRET_KEPT = auto()
    """A secret cannot be read, but which one it is."""
    SECRET_HIDDEN = auto()
    """A secret cannot be read, nor which one it is."""
    SECRET_ENDED = auto()
    TOKEN_ENDED = auto()
    UNKNOWN = auto()
    """The key is there no more."""


class Damage(NamedTuple):
    """A column, what is written into it as SQL, and what must come of it."""

    table: str
    column: str
    value: str
    effect: Effect = Effect.REFUSED


def _each(table: str, column: str, values: Sequence[str], effect: Effect = Effect.REFUSED) -> list[Damage]:
    return [Damage(table, column, value, effect) for value in values]


FIXED = [
    *_each("keys", "subject", ODD_TEXTS),
    *_each("keys", "plan_id", ("NULL", "-1", "9223372036854775807")),
    *_each("keys", "state", ("'frozen'", "''", "NULL", "'ACTIVE'", "repeat('x', 100000)")),
    Damage("keys", "state", "'revoked'", Effect.REVOKED),
    Damage("keys", "state", "'suspended'", Effect.SUSPENDED),
    *_each("keys", "expire_time", ("'infinity'", FAR)),
    *_each("keys", "expire_time", ("'-infinity'", "'0044-03-15 BC'", "'2001-01-01'"), Effect.EXPIRED),
    *_each("keys", "description", ("NULL", "repeat('x', 100000)"), Effect.NONE),
    *_each("keys", "labels", ("NULL", "'[]'", "'7'", DEEP), Effect.NONE),
    *_each("keys", "revision", ("NULL", "-9223372036854775808"), Effect.NONE),
    *_each("keys", "create_time", (*ODD_TIMES, "NULL"), Effect.NONE),
    *_each("keys", "update_time", ODD_TIMES, Effect.NONE),
    *_each("keys", "key_id", ("''", "'0'"), Effect.UNKNOWN),
    *_each(
        "key_secrets", "pepper_version", ("NULL", "0", "-2147483648", "2147483647 - 2147483647"), Effect.SECRET_KEPT
    ),
    *_each("key_secrets", "environment", ("''", "'LIVE'", "repeat('x', 100000)"), Effect.SECRET_KEPT),
    *_each("key_secrets", "expire_time", ("'infinity'", FAR), Effect.SECRET_KEPT),
    *_each("key_secrets", "expire_time", ("'-infinity'", "'0044-03-15 BC'", "'2001-01-01'"), Effect.SECRET_ENDED),
    *_each("key_secrets", "digest", ("''", "'\\x00'", "decode(repeat('ff', 33), 'hex')"), Effect.SECRET_HIDDEN),
    *_each("plans", "version", ("NULL", "0", "-1", "777")),
    *_each("plans", "name", (*ODD_TEXTS, "'UPPER'")),
    *_each("plans", "create_time", ODD_TIMES, Effect.NONE),
    *_each("plans", "delete_time", (*ODD_TIMES, "now()"), Effect.NONE),
    *_each("plan_versions", "version", ("-2", "778")),  # not what plans has, or they would fit together
    *_each("plan_versions", "on_store_failure", ("NULL", "''", "'maybe'", "'fail'")),
    *_each("plan_versions", "description", ("NULL",), Effect.NONE),
    *_each("plan_versions", "create_time", ODD_TIMES, Effect.NONE),
    *_each("overrides", "limit_name", ("''", "'other'", "repeat('x', 300)")),
    *_each("overrides", "expire_time", ("'infinity'", FAR)),
    *_each("rule_domains", "version", ("NULL", "0", "-1", "777")),
    *_each("rule_domains", "domain", ODD_TEXTS),
    *_each("rule_domains", "delete_time", ODD_TIMES),
    *_each("rule_domains", "create_time", ODD_TIMES, Effect.NONE),
    *_each("rule_versions", "version", ("-2", "778")),
    *_each("rule_versions", "on_store_failure", ("NULL", "''", "'maybe'")),
    *_each("rule_versions", "create_time", ODD_TIMES, Effect.NONE),
    *_each("admin_tokens", "role", ("NULL", "''", "'root'")),
    *_each("admin_tokens", "name", ODD_TEXTS),
    *_each("admin_tokens", "create_time", ("'infinity'", FAR)),
    *_each("admin_tokens", "digest", ("''", "'\\x00'", "decode(repeat('ff', 33), 'hex')"), Effect.TOKEN_ENDED),
    *_each("admin_tokens", "revoke_time", (*ODD_TIMES, "now()"), Effect.TOKEN_ENDED),
    *_each("changes", "kind", ("NULL", "''", "'moon'"), Effect.NONE),
    *_each("changes", "name", ("NULL", "''", "repeat('x', 100000)"), Effect.NONE),
    *_each("changes", "time", ODD_TIMES, Effect.NONE),
]
"""Damage to a column, whatever is in it."""

_NUMBERS = (0, -1, 10**30, 1.5, True, None, "7", [], {}, "x")
_NAMES = ("", "UPPER", "x" * 65, 7, None, [], {})
_NO_ITEMS = (None, {}, "", "abc", 7, False)
_JUNK: Mapping[str, Sequence[Any]] = {
    "capacity": _NUMBERS,
    "refill_tokens": _NUMBERS,
    "refill_period_us": (*_NUMBERS, 999, 32 * 86_400_000_000),
    "amount": _NUMBERS,
    "window": ("", "decade", 7, None, []),
    "mode": ("", "maybe", 7, None, []),
    "name": _NAMES,
    "resource": (7, None, "a*b", "x" * 257, "a\u0001", []),
    "token_bucket": (None, [], {}, 7, "x"),
    "quota": (None, [], {}, 7, "x"),
    "key": ("", None, 7, "x" * 257, "a\u0001"),
    "limits": _NO_ITEMS,
    "descriptors": (None, {}, "", 7),
    "unlimited": (None, False, 1, "yes"),
    "share_threshold": (None, 1, "yes"),
    "replaces": _NO_ITEMS,
}
"""What no field of this name may be."""

_RULE_NAMES = (7, None, "x" * 65, 'a"b', [])


def documents(table: str, valid: Any, random: Random) -> str:  # noqa: ANN401  whatever the column holds
    """A document that is not valid, made of a VALID one, as SQL."""
    whole: list[Callable[[], str]] = [
        lambda: "NULL",
        lambda: DEEP,
        lambda: "to_jsonb(repeat('x', 9000000))" if table == "rule_versions" else "to_jsonb(repeat('x', 100000))",
        lambda: _literal(random.choice([None, {}, 7, "x", [], [7], [None], [[]], True])),
    ]
    if random.random() < 0.3:
        return random.choice(whole)()
    damaged = json.loads(json.dumps(valid))
    places = [place for place in _places(damaged) if place[1] in _JUNK]
    holder, field = random.choice(places)
    junk = _RULE_NAMES if field == "name" and table == "rule_versions" else _JUNK[field]
    if field in ("capacity", "amount") and random.random() < 0.1:
        holder[field] = "@"
        return _literal(damaged).replace('"@"', "1e400")
    if random.random() < 0.2 and field in ("token_bucket", "quota", "key", "capacity", "amount", "window"):
        del holder[field]
    else:
        holder[field] = random.choice(junk)
    return _literal(damaged)


def too_many(valid: list[dict[str, Any]], count: int) -> str:
    """More limits than there may be, each valid, as SQL."""
    return _literal([{**valid[0], "name": f"limit-{number}"} for number in range(count)])


def twice(valid: list[dict[str, Any]]) -> str:
    """A limit that is there twice, as SQL."""
    return _literal([valid[0], *valid])


def _places(document: Any) -> list[tuple[dict[str, Any], str]]:  # noqa: ANN401  any JSON
    """Every object in a document with each of its fields."""
    if isinstance(document, list):
        return [place for item in document for place in _places(item)]
    if not isinstance(document, dict):
        return []
    return [(document, field) for field in document] + [p for item in document.values() for p in _places(item)]


def _literal(document: object) -> str:
    text = json.dumps(document).replace("'", "''")
    return f"'{text}'::jsonb"
