"""Copy what the site consists of into one folder, laid out as in the repository: `python -m docs.generate.tree FOLDER`.

A site generator takes one folder, and the pages lie beside what they describe: in `docs/`, `deploy/`, `clients/` and
`bench/`. So links lead to the same places in the repository and on the site, and no plugin has to rewrite them.
"""

import shutil
import sys
from pathlib import Path

from docs.generate.links import ROOT, pages, targets

_ADDED = ("docs/generate/iframe-worker.js", "docs/generate/site.css")
"""What mkdocs.yml adds to all pages. Without the script, the site generator would load one from elsewhere."""


def copy(folder: Path) -> None:
    """Copy all pages, and the files that they link to, into FOLDER, which is removed before."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in sorted({*pages(), *_ADDED, *(target for page in pages() for target in targets(page))}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
