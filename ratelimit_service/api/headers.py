"""The headers that report limits to an HTTP client: each limit once, in the styles that are set.

Names of headers are in lower case, as HTTP/2 has them.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.decision.charge import LimitResult
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, window_us

MAX_LABELS = 10_000


class Label(NamedTuple):
    """What is the same of a limit for every client.

    `name` as it was given, `quoted` as a structured-field string, `policy` as an item of `RateLimit-Policy`;
    `capacity` in whole tokens.
    """

    name: str
    quoted: str
    policy: str
    capacity: int


class ShownLimit(NamedTuple):
    """A limit on a call.

    `remaining`: whole tokens left. `seconds`: until it no longer denies, or else until it is untouched; rounded up.
    `denies`: whether it denied the call.
    """

    label: Label
    remaining: int
    seconds: int
    denies: bool

    @classmethod
    def of(cls, label: Label, results: LimitResult) -> "ShownLimit":
        """A limit by what its bucket said."""
        remaining, wait_us, reset_us = results
        return cls(label, remaining // MICRO, whole_seconds(wait_us if wait_us > 0 else reset_us), wait_us != 0)


class Labels:
    """Makes a label once for each limit, and keeps at most MAX_LABELS of them. One thread only may use them."""

    def __init__(self) -> None:
        self._labels: dict[tuple[str, int], tuple[TokenBucket | Quota, Label]] = {}

    def of(self, name: str, algorithm: TokenBucket | Quota) -> Label:
        """The label of a limit. One without a name is called by its window, a bucket `bucket`."""
        key = (name, id(algorithm))
        known = self._labels.get(key)
        if known is not None:
            return known[1]
        label = _label(name, algorithm)
        if len(self._labels) >= MAX_LABELS:
            self._labels.clear()
        self._labels[key] = (algorithm, label)  # with the algorithm, so that no other gets its id meanwhile
        return label


def whole_seconds(microseconds: int) -> int:
    """Seconds, rounded up."""
    return -(-microseconds // MICRO)


def _label(name: str, algorithm: TokenBucket | Quota) -> Label:
    if isinstance(algorithm, TokenBucket):
        usual_name, capacity = "bucket", algorithm.capacity
    else:
        usual_name, capacity = algorithm.window.value, algorithm.amount
    # No name has quotes or backslashes: there is nothing to escape.
    quoted = f'"{name or usual_name}"'
    window = max(1, whole_seconds(window_us(algorithm)))
    return Label(name, quoted, f"{quoted};q={capacity};w={window}", capacity)


Header: TypeAlias = tuple[str, str]
Render: TypeAlias = Callable[[Sequence[ShownLimit], ShownLimit | None], list[Header]]
"""Gives headers for all limits of a call and the one that binds, which is None when none does."""


class Style(NamedTuple):
    """How limits are told: `terms` by what is the same of them for every call, `state` by what is left."""

    terms: Render
    state: Render


def _ietf_terms(limits: Sequence[ShownLimit], _binding: ShownLimit | None) -> list[Header]:
    """`RateLimit-Policy` with every limit."""
    if not limits:
        return []
    if len(limits) == 1:
        return [("ratelimit-policy", limits[0].label.policy)]
    return [("ratelimit-policy", ", ".join(one.label.policy for one in _by_name(limits)))]


def _ietf_state(limits: Sequence[ShownLimit], _binding: ShownLimit | None) -> list[Header]:
    """`RateLimit` with every limit."""
    if not limits:
        return []
    if len(limits) > 1:
        return [("ratelimit", ", ".join(map(_ietf_item, _by_name(limits))))]
    return [("ratelimit", _ietf_item(limits[0]))]


def _ietf_item(limit: ShownLimit) -> str:
    (_, quoted, _, _), remaining, seconds, _ = limit
    return f"{quoted};r={remaining};t={seconds}"


def _by_name(limits: Sequence[ShownLimit]) -> list[ShownLimit]:
    """Each name once, with the first limit of that name: the name is what ties the two headers together."""
    named: dict[str, ShownLimit] = {}
    for limit in limits:
        named.setdefault(limit.label.quoted, limit)
    return list(named.values())


def _trio(prefix: str) -> Style:
    """Three headers for the limit that binds. Reset counts seconds from now."""

    def terms(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        return [] if binding is None else [(f"{prefix}limit", str(binding.label.capacity))]

    def state(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        if binding is None:
            return []
        return [(f"{prefix}remaining", str(binding.remaining)), (f"{prefix}reset", str(binding.seconds))]

    return Style(terms, state)


STYLES: Final[dict[str, Style]] = {
    "ietf": Style(_ietf_terms, _ietf_state),
    "x-ratelimit": _trio("x-ratelimit-"),
    "ratelimit": _trio("ratelimit-"),
}
"""Every style by its name in the settings. `ietf` is draft-ietf-httpapi-ratelimit-headers-11."""


class LimitHeaders:
    """Tells limits in the styles that are set. They go before the body, never into trailers."""

    def __init__(self, names: str) -> None:
        """NAMES are those of STYLES with commas between them. Empty tells no limits, but still `Retry-After`."""
        styles = [STYLES[name] for name in dict.fromkeys(names.split(",")) if name]
        self._render = _joined([render for style in styles for render in style])
        self.terms = _joined([style.terms for style in styles])
        """Tells of the same limits what is the same whatever is left of them."""
        self.state = _joined([style.state for style in styles])
        """Tells the rest."""

    def render(self, limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        """The headers of a call that may go on. LIMITS are those that are enforced, BINDING is one of them or None."""
        return self._render(limits, binding)

    def render_denial(
        self, limits: Sequence[ShownLimit], binding: ShownLimit | None, retry_after_us: int | None
    ) -> list[Header]:
        """The headers of a call that is denied. RETRY_AFTER_US is None when no wait would help."""
        headers = self.render(limits, binding)
        if retry_after_us is not None:
            headers.append(("retry-after", str(retry_after_seconds(binding, retry_after_us))))
        return headers


def _joined(renders: Sequence[Render]) -> Render:
    if len(renders) == 1:
        return renders[0]
    return lambda limits, binding: [header for render in renders for header in render(limits, binding)]


def retry_after_seconds(binding: ShownLimit | None, retry_after_us: int) -> int:
    """Whole seconds after which to try again: never before what the headers say of the limit that denies."""
    seconds = whole_seconds(retry_after_us)
    return max(seconds, binding.seconds) if binding is not None and binding.denies else seconds
