"""The headers that report limits to an HTTP client: each limit once, in the styles that are set.

Header names are in lower case, as in HTTP/2.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.clock import SYSTEM_CLOCK
from ratelimit_service.decision.charge import LimitResult
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket
from ratelimit_service.decision.window import NO_END, length_of

MAX_SPECS: Final = 10_000

_new = tuple.__new__  # a named tuple's own takes twice as long


class LimitSpec(NamedTuple):
    """The part of a limit that is the same for every client.

    `name` as it was given, `quoted` as a structured-field string, `policy` as an item of `RateLimit-Policy`, which
    is true before `until_us` (microseconds since 1970 UTC, perhaps NO_END); `capacity` in whole tokens.
    """

    name: str
    quoted: str
    policy: str
    capacity: int
    until_us: int = NO_END


class LimitState(NamedTuple):
    """A limit after a call.

    `remaining`: whole tokens left, 0 for a debt. `seconds`: until it no longer denies, or else until it is full again;
    rounded up. `denies`: whether it denied the call.
    """

    spec: LimitSpec
    remaining: int
    seconds: int
    denies: bool

    @classmethod
    def of(cls, spec: LimitSpec, result: LimitResult) -> "LimitState":
        """The state of a limit by the result of its bucket."""
        remaining, wait_us, reset_us = result
        seconds = -(-(wait_us if wait_us > 0 else reset_us) // MICRO)
        return _new(cls, (spec, remaining // MICRO if remaining > 0 else 0, seconds, wait_us != 0))


class LimitSpecs:
    """The specs of limits, each built once for as long as it is true; at most MAX_SPECS are kept. For one thread."""

    def __init__(self, now_us: Callable[[], int] = SYSTEM_CLOCK.now_us) -> None:
        self._now_us = now_us
        self._specs: dict[tuple[str, int], tuple[TokenBucket | Quota, LimitSpec]] = {}

    def get(self, name: str, algorithm: TokenBucket | Quota) -> LimitSpec:
        """The spec of a limit. One without a name is named after its window, a bucket `bucket`."""
        key = (name, id(algorithm))
        known = self._specs.get(key)
        if known is not None and (known[1].until_us == NO_END or self._now_us() < known[1].until_us):
            return known[1]
        spec = _spec(name, algorithm, self._now_us())
        if len(self._specs) >= MAX_SPECS:
            self._specs.clear()
        self._specs[key] = (algorithm, spec)  # with the algorithm, so that no other gets its id meanwhile
        return spec


def ceil_seconds(microseconds: int) -> int:
    """Seconds, rounded up."""
    return -(-microseconds // MICRO)


def _spec(name: str, algorithm: TokenBucket | Quota, now_us: int) -> LimitSpec:
    if isinstance(algorithm, TokenBucket):
        default_name, capacity = "bucket", algorithm.capacity
    else:
        default_name, capacity = algorithm.window.value, algorithm.amount
    # No name has quotes or backslashes: there is nothing to escape.
    quoted = f'"{name or default_name}"'
    length_us, until_us = length_of(algorithm, now_us)
    window = max(1, ceil_seconds(length_us))
    return LimitSpec(name, quoted, f"{quoted};q={capacity};w={window}", capacity, until_us)


Header: TypeAlias = tuple[str, str]
Render: TypeAlias = Callable[[Sequence[LimitState], LimitState | None], list[Header]]
"""Returns headers for all limits of a call and the binding one, which is None when none binds."""


class Style(NamedTuple):
    """The headers of a style: those of the specs of limits, the same for every call, and those of their state."""

    spec: Render
    state: Render


def _ietf_spec(limits: Sequence[LimitState], _binding: LimitState | None) -> list[Header]:
    """`RateLimit-Policy` with every limit."""
    return [("ratelimit-policy", ", ".join([limit.spec.policy for limit in limits]))] if limits else []


def _ietf_state(limits: Sequence[LimitState], _binding: LimitState | None) -> list[Header]:
    """`RateLimit` with every limit."""
    return [("ratelimit", ", ".join(map(_ietf_item, limits)))] if limits else []


def _ietf_item(limit: LimitState) -> str:
    (_, quoted, _, _, _), remaining, seconds, _ = limit
    return f"{quoted};r={remaining};t={seconds}"


def _distinct(limits: Sequence[LimitState]) -> Sequence[LimitState]:
    """One limit of each name, the one that binds: the name is what links the two headers of `ietf`."""
    if len(limits) <= 1:
        return limits
    by_name: dict[str, LimitState] = {}
    for limit in limits:
        name = limit.spec.quoted
        other = by_name.get(name)
        if other is None or _binds_more(limit, other):
            by_name[name] = limit
    return list(by_name.values())


def _binds_more(limit: LimitState, other: LimitState) -> bool:
    """Whether `binding_of` would take LIMIT, the later of the two."""
    if limit.denies or other.denies:
        return limit.denies and (not other.denies or limit.seconds > other.seconds)
    return limit.remaining * other.spec.capacity < other.remaining * limit.spec.capacity


def binding_of(limits: Sequence[LimitState]) -> LimitState:
    """The limit that denies for the longest time, or else the one with the smallest share remaining; there is one."""
    denying = [limit for limit in limits if limit.denies]
    if denying:
        return max(denying, key=lambda limit: limit.seconds)
    return min(limits, key=lambda limit: limit.remaining / limit.spec.capacity)


def _binding_style(prefix: str) -> Style:
    """Three headers for the binding limit: limit, remaining and reset, the latter in seconds from now."""

    def spec(_limits: Sequence[LimitState], binding: LimitState | None) -> list[Header]:
        return [] if binding is None else [(f"{prefix}limit", str(binding.spec.capacity))]

    def state(_limits: Sequence[LimitState], binding: LimitState | None) -> list[Header]:
        if binding is None:
            return []
        return [(f"{prefix}remaining", str(binding.remaining)), (f"{prefix}reset", str(binding.seconds))]

    return Style(spec, state)


STYLES: Final[dict[str, Style]] = {
    "ietf": Style(_ietf_spec, _ietf_state),
    "x-ratelimit": _binding_style("x-ratelimit-"),
    "ratelimit": _binding_style("ratelimit-"),
}
"""Every style by its name in the settings. `ietf` is draft-ietf-httpapi-ratelimit-headers-11."""


class LimitHeaders:
    """Renders limits in the styles that are set. The headers precede the body, never in trailers."""

    def __init__(self, names: str) -> None:
        """NAMES are those of STYLES, separated by commas. If empty, only `Retry-After` is sent."""
        styles = [STYLES[name] for name in dict.fromkeys(names.split(",")) if name]
        self._render_all = _combined([render for style in styles for render in style])
        self.render_spec = _combined([style.spec for style in styles])
        """Headers that are constant per limit, for limits of different names."""
        self.render_state = _combined([style.state for style in styles])
        """Headers that change with every call, likewise."""

    def render(self, limits: Sequence[LimitState], binding: LimitState | None) -> list[Header]:
        """The headers of a call that is allowed: of all its enforced limits, and one of them that binds or None."""
        return self._render_all(_distinct(limits), binding)

    def render_denial(
        self, limits: Sequence[LimitState], binding: LimitState | None, retry_after_us: int | None
    ) -> list[Header]:
        """The headers of a call that is denied, as of `render`. RETRY_AFTER_US is None when no wait would help."""
        headers = self.render(limits, binding)
        if retry_after_us is not None:
            headers.append(("retry-after", str(retry_after_seconds(binding, retry_after_us))))
        return headers


def _combined(renders: Sequence[Render]) -> Render:
    if len(renders) == 1:
        return renders[0]
    return lambda limits, binding: [header for render in renders for header in render(limits, binding)]


def retry_after_seconds(binding: LimitState | None, retry_after_us: int) -> int:
    """Whole seconds after which to try again: never fewer than the headers report for the limit that denies."""
    seconds = ceil_seconds(retry_after_us)
    return max(seconds, binding.seconds) if binding is not None and binding.denies else seconds
