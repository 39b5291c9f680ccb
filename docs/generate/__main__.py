"""Write the pages of the reference into `docs/`, and the dashboard; remove the pages of what is gone."""

from pathlib import Path
from typing import Final

from docs.generate import api, cli, dashboard, errors, logs, metrics, settings

DOCS: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = "reference"
"""Below `docs/`: what is generated as a whole. Nothing else is in it."""


def pages() -> dict[str, str]:
    """All pages that are generated, by their path below `docs/`."""
    return {**settings.pages(), **cli.pages(), **api.pages(), **errors.pages(), **metrics.pages(), **logs.pages()}


def main() -> None:
    """Write them."""
    written = pages()
    for path, text in written.items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
    for old in (DOCS / FOLDER).rglob("*.md"):
        if old.relative_to(DOCS).as_posix() not in written:
            old.unlink()
    dashboard.FILE.write_text(dashboard.dashboard(), encoding="utf-8")


if __name__ == "__main__":
    main()
