"""Scripts, styles and icons: cached for ever under a name of their own, and part of what is installed."""

import re
import tomllib
from pathlib import Path

from console.browser import Browser

ROOT = Path(__file__).parent.parent.parent
CONSOLE = ROOT / "ratelimit_service/console"


def test_a_file_is_cached_under_its_digest_only(anyone: Browser) -> None:
    """A file can be kept for ever under the path that names its content, and there is none under another."""
    page = anyone.get("/sign-in").text
    paths = re.findall(r'(?:href|src)="/console(/static/[0-9a-f]{12}/[^"#]+)"', page)
    assert {path.rpartition("/")[2] for path in paths} >= {"console.css", "console.js", "tokens.css", "icon.svg"}
    for path in paths:
        answer = anyone.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert anyone.get(re.sub(r"[0-9a-f]{12}", "0" * 12, path)).status_code == 404


def test_nothing_else_is_served(anyone: Browser) -> None:
    """What is no asset is not served: no licence beside one, and nothing above the folder."""
    for name in ("LICENSE", "../app.py", "..%2fapp.py", "%2e%2e/app.py"):
        assert anyone.get(f"/static/{'0' * 12}/{name}").status_code == 404


def test_a_wheel_has_every_file() -> None:
    """The patterns of the package's data match every template and every static file."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = data["ratelimit_service.console"]
    matched = {path for pattern in patterns for path in CONSOLE.glob(pattern)}
    files = {path for folder in ("templates", "static") for path in (CONSOLE / folder).rglob("*") if path.is_file()}
    assert files <= matched
    assert any(path.name == "LICENSE" and "uplot" in str(path) for path in matched)
    assert any(path.name == "LICENSE" and "lucide" in str(path) for path in matched)


def test_every_icon_that_a_template_names_exists() -> None:
    """An icon that is missing would be an empty space."""
    sprite = (CONSOLE / "static/vendor/lucide/icons.svg").read_text()
    icons = set(re.findall(r'<symbol id="([\w-]+)"', sprite))
    for template in (CONSOLE / "templates").glob("*.html"):
        for name in re.findall(r"icon\('([\w-]+)'", template.read_text()):
            assert name in icons, template.name
