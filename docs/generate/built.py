"""Checks the site that was built: `python -m docs.generate.built FOLDER`, a part of `make docs`.

Its pages load nothing from elsewhere, so that it can be read without a network, and the search knows each of them.
"""

import json
import re
import sys
from pathlib import Path
from typing import Final

_LOADED: Final = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
    r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|icon|preconnect))[^>]*\bhref=["']?(?:https?:)?//|"""
    r"""\burl\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//""",
    re.IGNORECASE,
)


def problems(site: Path) -> list[str]:
    """What a page loads from elsewhere, and the pages that the search does not know."""
    found = [
        f"{path.relative_to(site)}: loads {match[0]}... from elsewhere"
        for path in sorted(site.rglob("*"))
        if path.suffix in {".html", ".css"}
        for match in _LOADED.finditer(path.read_text(encoding="utf-8"))
    ]
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    known = {entry["location"].partition("#")[0] or "index.html" for entry in index["docs"]}
    return found + [f"{page}: is not in the search index" for page in sorted(pages - known)]


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "the site loads nothing from elsewhere, and the search has all pages", file=sys.stderr)
    sys.exit(bool(wrong))
