"""All headers of an answer."""

from collections.abc import Sequence

from ratelimit_service.doors.headers.shown import ShownLimit, whole_seconds
from ratelimit_service.doors.headers.styles import STYLES, Header, Tell


class LimitHeaders:
    """Tells limits in the styles that are set. They go before the body, never into trailers."""

    def __init__(self, names: str) -> None:
        """NAMES are those of STYLES with commas between them. Empty tells no limits, but still `Retry-After`."""
        styles = [STYLES[name] for name in dict.fromkeys(names.split(",")) if name]
        self._tell = _joined([tell for style in styles for tell in style])
        self.terms = _joined([style.terms for style in styles])
        """Tells of the same limits what is the same whatever is left of them."""
        self.state = _joined([style.state for style in styles])
        """Tells the rest."""

    def tell(self, limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        """The headers of a call that may go on. LIMITS are those that are enforced, BINDING is one of them or None."""
        return self._tell(limits, binding)

    def tell_denial(
        self, limits: Sequence[ShownLimit], binding: ShownLimit | None, retry_after_us: int | None
    ) -> list[Header]:
        """The headers of a call that is denied. RETRY_AFTER_US is None when no wait would help."""
        headers = self.tell(limits, binding)
        if retry_after_us is not None:
            headers.append(("retry-after", str(retry_after_seconds(binding, retry_after_us))))
        return headers


def _joined(tells: Sequence[Tell]) -> Tell:
    if len(tells) == 1:
        return tells[0]
    return lambda limits, binding: [header for tell in tells for header in tell(limits, binding)]


def retry_after_seconds(binding: ShownLimit | None, retry_after_us: int) -> int:
    """Whole seconds after which to try again: never before what the headers say of the limit that denies."""
    seconds = whole_seconds(retry_after_us)
    return max(seconds, binding.seconds) if binding is not None and binding.denies else seconds
