"""Serves the page of `server/page/static`: `GET /` and `GET /page/{file}`, and nothing else.

The files are read once, when the routes are attached, and answered from memory: a path of a request never
reaches the file system. The page is public, as `/ready` is: it holds no secret, and asks the API with the key
that its user types. It loads nothing from elsewhere and runs no inline script, which the headers enforce.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

__all__ = ["ASSETS", "Asset", "add_page", "read_assets"]

STATIC = Path(__file__).with_name("static")
_INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""`no-cache`: kept by the browser, and asked after by its ETag, so that a new release is seen at once."""


@dataclass(frozen=True)
class Asset:
    """One file of the page. `etag`: quoted, of its content; `media_type`: as the header says it."""

    content: bytes
    media_type: str
    etag: str


def read_assets(folder: Path = STATIC) -> dict[str, Asset]:
    """Return every file under `folder` by its path from there, with `/` between.

    Raises:
        KeyError: a file of a kind that the page does not have.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _read(path) for path in found}


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


ASSETS = read_assets()
"""The page as it is installed."""


def add_page(app: FastAPI) -> None:
    """Put the page on `app`. vLLM 0.32 has no `/` and nothing under `/page`: none of its routes is hidden."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def show_page(request: Request) -> Response:
        """The page itself."""
        return _answer(ASSETS[_INDEX], request)

    @router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
    async def show_asset(name: str, request: Request) -> Response:
        """A file that the page asks for; 404 for any other."""
        asset = ASSETS.get(name)
        return Response(status_code=404, headers=_HEADERS) if asset is None else _answer(asset, request)

    app.include_router(router)


def _answer(asset: Asset, request: Request) -> Response:
    headers = _HEADERS | {"ETag": asset.etag}
    if asset.etag in _tags(request.headers.get("If-None-Match", "")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _tags(header: str) -> set[str]:
    """What a browser or a proxy says it has; a proxy that compressed the answer marks its tag as weak."""
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
