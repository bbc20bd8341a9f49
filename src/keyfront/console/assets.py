"""The console's style, script, and images, from the package.

Their URLs contain a digest of all of them, so that browsers can keep them forever and still see a new version at once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "assets"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Assets:
    """All files of the folder, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in TYPES
        }
        digest = hashlib.sha256()
        for name, data in self._files.items():
            digest.update(name.encode() + b"\0" + data)
        self.digest = digest.hexdigest()[:16]

    def path(self, name: str) -> str:
        """The path of a file, below the console."""
        if name not in self._files:
            raise KeyError(name)
        return f"/assets/{self.digest}/{name}"

    async def serve(self, request: Request) -> Response:
        """A file. One of another version is not cached for long: two versions may serve at once for a moment."""
        name = request.path_params["name"]
        data = self._files.get(name)
        if data is None:
            return Response("There is no such file.\n", 404, media_type="text/plain")
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        current = request.path_params["digest"] == self.digest
        headers = {
            "ETag": etag,
            "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
        }
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=TYPES[Path(name).suffix])
