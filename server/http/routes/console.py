"""GET /console: the page, and the files that it is made of. They carry no secrets: what the page asks needs keys."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.console.files import PAGE, ConsoleFile, console_files
from server.http.errors import not_found

PATH = "/console"
SECURITY = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # No text can become markup or script, whatever the page's own code does.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def console_router() -> APIRouter:
    """The files are read now, once."""
    router, files = APIRouter(include_in_schema=False), console_files()

    @router.get(PATH)
    async def page(request: Request) -> Response:
        """The page."""
        return _answer(request, files, PAGE)

    @router.get(PATH + "/{path:path}")
    async def file(request: Request, path: str) -> Response:
        """A file of the page."""
        return _answer(request, files, path)

    return router


def _answer(request: Request, files: Mapping[str, ConsoleFile], path: str) -> Response:
    file = files.get(path)
    if file is None:
        raise not_found("There is no such file.")
    # Asked for anew each time and answered with 304: a server that was updated never mixes old files with new ones.
    headers = {**SECURITY, "ETag": file.etag, "Cache-Control": "no-cache"}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _has(if_none_match: str, etag: str) -> bool:
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or "*" in known
