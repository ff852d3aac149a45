"""The route of style sheets and scripts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from registry.html.assets import PREFIX, asset_at
from registry.server.pages.responses import secured
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of

router: APIRouter = APIRouter(include_in_schema=False)

_LARGE = 1 << 12
"""Bytes from which compression is worth its time."""


@router.get(PREFIX + "{file}")
async def static(file: str, request: Request) -> Response:
    """Send a file that pages load. It is the same for everybody, so it needs no session."""
    pools = service_of(request).pools
    asset = await pools.read(asset_at, file)
    if asset is None:
        raise Problem(404, f"there is no file {file!r:.140}")
    headers = {"vary": "accept-encoding"}
    content = asset.content
    if len(content) > _LARGE and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        content = await pools.read(lambda: asset.compressed)
    # Its name has its checksum: another content has another URL.
    return secured(
        Response(content, headers=headers, media_type=asset.media_type),
        cache="public, max-age=31536000, immutable",
    )
