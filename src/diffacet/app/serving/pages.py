"""The explorer page: the files of the package directory `page`, read once, so that no path can lead elsewhere."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from diffacet.app.serving.faults import Fault

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent: content, media type and entity tag."""

    content: bytes
    kind: str
    tag: str


class Pages:
    """index.html at "/", and what lies in `static` under "/static/"."""

    def __init__(self, folder: Path = PAGE) -> None:
        """Read the files whose kind is known; a folder that is not there holds none."""
        found = [path for path in sorted(folder.glob("static/**/*")) if path.is_file()] + [folder / "index.html"]
        self.assets = {
            path.relative_to(folder).as_posix(): _asset(path)
            for path in found
            if path.suffix in _TYPES and path.is_file()
        }

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._sent(request, "index.html")

    async def static(self, request: Request) -> Response:
        """A file of it."""
        return self._sent(request, f"static/{request.path_params['name']}")

    def _sent(self, request: Request, name: str) -> Response:
        asset = self.assets.get(name)
        if asset is None:
            raise Fault(404, "there is no such page")
        headers = {"ETag": asset.tag}
        if asset.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.kind)


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    return Asset(content, _TYPES[path.suffix], f'"{digest}"')
