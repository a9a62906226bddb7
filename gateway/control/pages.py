"""
The pages that people look at: `/`, `/flowers` and the files they are made of.

They are the same for everybody and hold nothing to be kept from anybody, so no token is asked for;
what they show they ask the admin API for, with the token that the user has typed in.
"""

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parents[1] / "pages"
STATIC: Final = "/static/"
_PAGES: Final = {"/": "index.html", "/flowers": "flowers.html"}
_SUFFIXES: Final = (".css", ".js", ".json", ".svg", ".png")
_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
                 ".html": "text/html; charset=utf-8"}  # fmt: skip
_HEADERS: Final = {
    # Everything comes from here, nothing is written into the page, nobody may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304: an upgrade shows
}


def routes() -> list[web.RouteDef]:
    """Return a route for each file there is: a name that a client makes up is never looked for."""
    found = [web.get(path, _sending(FOLDER / name)) for path, name in _PAGES.items()]
    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in _SUFFIXES:
            path = STATIC + file.relative_to(FOLDER).as_posix()
            found.append(web.get(path, _sending(file)))
    return found


def is_open(path: str) -> bool:
    """Whether a page may be had without a token."""
    return path in _PAGES or path.startswith(STATIC)


def _sending(file: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    kind = (
        _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    )

    async def send(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(file, headers={**_HEADERS, "Content-Type": kind})

    return send
