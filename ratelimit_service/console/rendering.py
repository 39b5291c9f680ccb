"""Templates. Whatever they show is escaped, always; there is no `safe` filter."""

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ratelimit_service.console import formats

NAVIGATION: Final = (
    ("overview", "overview", "Overview"),
    ("keys", "key", "Keys"),
    ("plans", "plans", "Plans"),
    ("audit", "audit", "Audit"),
    ("rules", "rules", "Rules"),
    ("alerts", "alerts", "Alerts"),
)
"""The pages of the navigation: name, icon and title. Narrow screens show the first four, and the others behind More."""


class Renderer:
    """Renders the templates of `templates/`."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("ratelimit_service.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        del self._environment.filters["safe"]
        self._environment.filters |= {
            "count": formats.count,
            "rate": formats.rate,
            "percent": formats.percent,
            "percent_left": formats.percent_left,
            "duration": formats.duration,
            "whole_tokens": formats.whole_tokens,
            "whole_minutes": formats.whole_minutes,
            "full_time": formats.full_time,
            "second_time": formats.second_time,
            "machine_time": formats.machine_time,
            "allows": formats.allows,
            "period": formats.period,
            "command": _command,
        }
        self._environment.globals |= {"clock_time": formats.clock_time, "navigation": NAVIGATION}

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """Render a template with what it shows. Raises UndefinedError for something that is missing."""
        return self._environment.get_template(template).render(context)


def _command(lines: tuple[str, ...], *, plaintext: bool = False) -> Markup:
    """Commands as text, those that begin with # as comments. PLAINTEXT: grpcurl needs to know that there is no TLS."""
    if plaintext:
        lines = tuple(line.replace("grpcurl ", "grpcurl -plaintext ", 1) for line in lines)
    shown = (
        Markup('<span class="c">{}</span>').format(line) if line.startswith("#") else escape(line) for line in lines
    )
    return Markup("\n").join(shown)
