"""Scripts, styles and icons: small files that are read once, each under a path that names its content.

A path with the digest of the content can be cached for ever; the next version of a file has another path.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.responses import Response

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    digest: str


class Assets:
    """The files, by their name below `static/`. Licences and other text files beside them are not served."""

    def __init__(self) -> None:
        self._assets: dict[str, _Asset] = {}
        for path in sorted(_FOLDER.rglob("*")):
            media_type = _TYPES.get(path.suffix)
            if media_type:
                content = path.read_bytes()
                name = path.relative_to(_FOLDER).as_posix()
                self._assets[name] = _Asset(content, media_type, sha256(content).hexdigest()[:_DIGITS])

    def path(self, name: str) -> str:
        """The path of a file below the console's own: `/static/<digest>/console.css`."""
        return f"/static/{self._assets[name].digest}/{name}"

    def respond(self, digest: str, name: str) -> Response | None:
        """Return the file, or None if there is none with this content."""
        asset = self._assets.get(name)
        if asset is None or asset.digest != digest:
            return None
        cached = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.content, media_type=asset.media_type, headers=cached)
