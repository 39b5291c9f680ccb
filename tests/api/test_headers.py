"""The headers that report limits to clients."""

import calendar
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from pydantic import ValidationError

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.api.headers import STYLES, LimitHeaders, LimitSpec, LimitSpecs, LimitState, binding_of
from ratelimit_service.decision.charge import NEVER, LimitResult
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, Window
from ratelimit_service.settings import Settings

CASES = json.loads((Path(__file__).parents[2] / "clients" / "conformance" / "headers.json").read_text())
STEPS = [(case["name"], step) for case in CASES for step in case["steps"] if "headers" in step["expect"]]


def shown(name: str, capacity: int, remaining: int, wait_us: int = 0, reset_us: int = 0) -> LimitState:
    """A bucket that gains a token a second."""
    spec = LimitSpecs().get(name, TokenBucket(capacity, 1, MICRO))
    return LimitState.of(spec, LimitResult(remaining * MICRO, wait_us, reset_us))


def from_message(response: CheckLimitResponse) -> tuple[list[LimitState], LimitState | None]:
    """The limits of a decision, and the one that binds."""
    limits = {}
    for limit in response.limits:
        if not limit.shadow:
            window = max(1, -(-limit.window.ToMicroseconds() // MICRO))
            spec = LimitSpec(limit.name, f'"{limit.name}"', f'"{limit.name}";q={limit.limit};w={window}', limit.limit)
            wait_us = limit.retry_after.ToMicroseconds() if limit.HasField("retry_after") else NEVER
            results = LimitResult(
                limit.remaining * MICRO, wait_us if limit.would_deny else 0, limit.reset_after.ToMicroseconds()
            )
            limits[limit.name] = LimitState.of(spec, results)
    return list(limits.values()), limits.get(response.limit)


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[name for name, _ in STEPS])
@pytest.mark.parametrize("style", STYLES)
def test_the_same_as_the_clients(style: str, name: str, step: dict[str, Any]) -> None:
    """A decision has the same headers as in the clients, in every style, except for the challenge of a 401."""
    response = ParseDict(step["server"][0]["response"], CheckLimitResponse())
    limits, binding = from_message(response)
    headers = LimitHeaders(style)
    if response.allowed:
        found = headers.render(limits, binding)
    else:
        wait = response.retry_after.ToTimedelta() if response.HasField("retry_after") else None
        found = headers.render_denial(limits, binding, None if wait is None else wait // timedelta(microseconds=1))
    expected = {key.lower(): value for key, value in step["expect"]["headers"][style].items()}
    expected.pop("www-authenticate", None)
    assert dict(found) == expected, name


def test_the_drafts_form() -> None:
    """Names are strings in quotes, numbers whole, parameters as draft 11 has them, items apart by a comma."""
    headers = dict(LimitHeaders("ietf").render([shown("burst", 100, 50, reset_us=30 * MICRO), shown("b", 9, 9)], None))
    assert headers == {
        "ratelimit-policy": '"burst";q=100;w=100, "b";q=9;w=9',
        "ratelimit": '"burst";r=50;t=30, "b";r=9;t=0',
    }


def test_several_styles() -> None:
    """Styles stand side by side in the order of the setting, one that is named twice once."""
    one = shown("burst", 100, 50)
    names = [name for name, _ in LimitHeaders("x-ratelimit,ietf,ratelimit,ietf").render([one], one)]
    trio = ["limit", "remaining", "reset"]
    assert names == [
        *(f"x-ratelimit-{part}" for part in trio),
        *("ratelimit-policy", "ratelimit"),
        *(f"ratelimit-{part}" for part in trio),
    ]


def test_no_style() -> None:
    """Without a style only Retry-After is sent."""
    one = shown("burst", 100, 0, wait_us=1)
    headers = LimitHeaders("")
    assert headers.render([one], one) == []
    assert headers.render_denial([one], one, 1) == [("retry-after", "1")]


def test_no_limits() -> None:
    """A call without limits has no header in any style, and a denial that no wait ends has no Retry-After."""
    headers = LimitHeaders("ietf,x-ratelimit,ratelimit")
    assert headers.render([], None) == headers.render_denial([], None, None) == []


def test_retry_after_wins() -> None:
    """Retry-After is never before the t of the limit that denies, and may be after it."""
    headers = LimitHeaders("ietf")
    for wait_us, retry_after_us, seconds in ((2_500_000, 1_000_000, 3), (2_500_000, 7_000_000, 7), (1, 1, 1)):
        binding = shown("burst", 5, 0, wait_us=wait_us)
        assert dict(headers.render_denial([binding], binding, retry_after_us))["retry-after"] == str(seconds)


def test_a_limit_that_allows_does_not_delay_a_retry() -> None:
    """Retry-After is the wait of the denial where the binding limit allows: when that is full does not matter."""
    binding = shown("burst", 5, 1, reset_us=60 * MICRO)
    assert dict(LimitHeaders("ietf").render_denial([binding], binding, 2_000_000))["retry-after"] == "2"


def test_a_limit_that_never_allows_the_call() -> None:
    """A limit that no wait satisfies denies, and its seconds are those until it is full again."""
    state = shown("burst", 5, 2, wait_us=NEVER, reset_us=3 * MICRO)
    assert (state.denies, state.remaining, state.seconds) == (True, 2, 3)


def test_a_window_is_whole_seconds() -> None:
    """The window of a bucket that refills in part of a second is rounded up, to 1 at least."""
    specs = LimitSpecs()
    windows = [specs.get("b", TokenBucket(capacity, 10, MICRO)).policy for capacity in (1, 10, 11)]
    assert windows == ['"b";q=1;w=1', '"b";q=10;w=1', '"b";q=11;w=2']


def test_limits_without_a_name() -> None:
    """A limit without a name is named after its window, a bucket `bucket`; of two of a name the tighter counts."""
    specs = LimitSpecs()
    day, hour = Quota(5, Window.DAY), Quota(7, Window.HOUR)
    limits = [
        LimitState.of(specs.get(name, algorithm), LimitResult(MICRO, 0, MICRO))
        for name, algorithm in (("", day), ("", hour), ("day", Quota(9, Window.DAY)), ("", TokenBucket(4, 1, MICRO)))
    ]
    headers = dict(LimitHeaders("ietf").render(limits, None))
    assert headers["ratelimit-policy"] == '"day";q=9;w=86400, "hour";q=7;w=3600, "bucket";q=4;w=4'
    assert headers["ratelimit"].count('"day"') == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_of_two_limits_of_one_name_the_one_that_binds(*, reverse: bool) -> None:
    """Two descriptors with limits of one name and a bucket each: what denies is reported, or else has less left."""
    for loose, tight in (
        (shown("b", 100, 90), shown("b", 10, 1)),
        (shown("b", 10, 1), shown("b", 100, 0, wait_us=MICRO)),
        (shown("b", 10, 0, wait_us=MICRO), shown("b", 100, 0, wait_us=60 * MICRO)),
        (shown("b", 10, 9), shown("b", 1_000, 100)),
    ):
        limits = [tight, loose] if reverse else [loose, tight]
        assert binding_of(limits) is tight
        headers = dict(LimitHeaders("ietf").render([*limits, shown("a", 5, 5)], tight))
        assert headers["ratelimit"] == f'"b";r={tight.remaining};t={tight.seconds}, "a";r=5;t=0'
        assert headers["ratelimit-policy"] == f'{tight.spec.policy}, "a";q=5;w=5'


def test_a_window_is_as_long_as_it_is() -> None:
    """A month has as many days as the calendar gives it, and the next one its own."""
    now_us = calendar.timegm((2027, 2, 28, 23, 59, 59)) * MICRO
    specs, month, day = LimitSpecs(lambda: now_us), Quota(5, Window.MONTH), Quota(5, Window.DAY)
    february, today = specs.get("a", month), specs.get("a", day)
    assert february.policy == f'"a";q=5;w={28 * 86_400}'
    assert specs.get("a", month) is february
    now_us += MICRO
    assert specs.get("a", month).policy == f'"a";q=5;w={31 * 86_400}'
    assert specs.get("a", day) is today


def test_a_spec_is_built_once_for_a_limit() -> None:
    """The same limit has one spec; another algorithm or name has its own."""
    specs = LimitSpecs()
    algorithm = Quota(5, Window.DAY)
    assert specs.get("a", algorithm) is specs.get("a", algorithm)
    assert specs.get("b", algorithm).quoted == '"b"'
    assert specs.get("a", Quota(6, Window.DAY)).capacity == 6


@pytest.mark.parametrize("text", ["x", "ietf,", "ietf ,x-ratelimit", ",ietf"])
def test_styles_that_do_not_exist(text: str) -> None:
    """The setting takes the names of the styles, with commas and nothing else between them."""
    with pytest.raises(ValidationError, match="limit_headers"):
        Settings(limit_headers=text)
