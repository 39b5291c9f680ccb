"""Targets that take a text: keys and tokens, page tokens, and names that people type."""

import unicodedata
from contextlib import suppress
from datetime import UTC, datetime

from fuzz.choices import Choices
from fuzz.harness import Target
from ratelimit_service.cli.times import parse_duration, parse_past_time, parse_time
from ratelimit_service.console.forms import Fields
from ratelimit_service.console.pasted import has_secret, without_secret
from ratelimit_service.console.times import chosen_time
from ratelimit_service.decision.api_key import ApiKey, check_key_id
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.key_filter import public_part
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.text import check_description, check_labels, check_name, check_subject
from ratelimit_service.management.tokens import Token
from ratelimit_service.usage.query import _Position
from ratelimit_service.usage.query_request import Dimension, UsageRequest

_NOW = datetime(2026, 11, 25, tzinfo=UTC)
_KEY, _TOKEN = ApiKey("live", "0123456789ABCDEF", "s" * 27), Token("0123456789AB", "s" * 32)


def keys(data: bytes) -> None:
    """Whatever is sent as a key or a token is read as what it is or as none, and what is shown of it has no secret."""
    text = data.decode("utf-8", "surrogateescape")
    key, token = ApiKey.parse(text), Token.parse(text)
    assert key is None or (str(key) == text and key.secret not in repr(key))
    assert token is None or (str(token) == text and token.secret not in repr(token))
    for check in (check_key_id, public_part):
        with suppress(InvalidArgument):
            found = check(text)
            assert found is None or len(found) <= 16
    shown = without_secret(text)
    assert not has_secret(shown)


def page_tokens(data: bytes) -> None:
    """Whatever is sent as a page token, its check forged too, is a position within bounds or an invalid argument."""
    choices = Choices(data)
    request = UsageRequest(group_by=(Dimension.KEY,))
    filters = ("usage", repr(request)) if choices.flag() else ("audit", "")
    position = choices.text(
        ["1", "9" * 5_000, '[0, 86400000000, "day", "x"]', "[" * 3_000, '[1e999, 0, "day"]', '{"a": 1}']
    )
    if choices.flag():
        position += choices.rest().decode("utf-8", "replace")
    if choices.flag():
        token = choices.rest().decode("latin-1")
    else:
        page: Page[int] = Paging(1).page([1, 2], [position.encode("utf-8", "replace").decode(), ""], *filters)
        token = page.next_page_token
    paging = Paging(1, token)
    with suppress(InvalidArgument):
        number = paging.number(*filters)
        assert number is None or 0 <= number < 2**63
    with suppress(InvalidArgument):
        assert "\0" not in paging.position(*filters)
    with suppress(InvalidArgument):
        _Position.read(paging, request)


def names(data: bytes) -> None:
    """Whatever is typed is accepted as one that reads as it is, or refused in words that can be printed."""
    text = data.decode("utf-8", "surrogatepass" if data[:1] < b"\x80" else "replace") if _is_text(data) else repr(data)
    checks = (
        check_subject,
        check_description,
        lambda value: check_name("name", value),
        lambda value: check_labels({"team": value, value: ""}),
    )
    for check in checks:
        try:
            check(text)
        except InvalidArgument as error:
            problem = error.message
        else:
            problem = ""
            assert unicodedata.is_normalized("NFC", text)
            assert not {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} & set(map(unicodedata.category, text))
        assert problem.isprintable(), problem.encode("unicode_escape")


def times(data: bytes) -> None:
    """Whatever is typed as a time or a duration is one within bounds, or an error in words."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_time, parse_past_time):
        with suppress(ValueError):
            assert -62_135_596_800 <= parse(text, _NOW).seconds <= 253_402_300_799
    with suppress(ValueError):
        parse_duration(text)
    for field in (text, "at"):
        with suppress(InvalidArgument):
            chosen_time(Fields([("expires", field), ("expires_at", text)]), "expires", 0)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


TARGETS = [
    Target("keys", keys, [str(_KEY).encode(), str(_TOKEN).encode(), b"rlk_live_0123456789ABCDEF", b"Bearer x"], 512),
    Target("page_tokens", page_tokens, [bytes([0, n, 0, 0]) for n in range(8)] + [b"\x01\x00\x01\x01AAAA"], 512),
    Target("times", times, [b"1h30m", b"2027-01-31T12:00:00Z", b"2026-11-25 15:26", b"99999999999d", b"0.5ms"], 512),
    Target("names", names, ["Müller".encode(), "a\u202eb".encode(), "cafe\u0301".encode(), "मे\u200d".encode()], 256),
]
