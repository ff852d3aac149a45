"""The server of ``registry demo --serve``: the pages of the demo's registry, and the demo's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from socket import socket

from fastapi import APIRouter, Request, Response

from registry.catalog.registry import Registry
from registry.cli.demo.measurement import Measurement
from registry.cli.demo.report import page_values
from registry.server.pages.viewer import show, viewer_of
from registry.server.serve import listen, make_server
from registry.server.settings import ServerSettings, SettingsError

_HOST, _PORT = "127.0.0.1", 8000


def open_socket() -> socket:
    """Open the server's socket, at the port of `registry serve` if it is free."""
    try:
        return listen(_HOST, _PORT)
    except SettingsError:
        return listen(_HOST, 0)


def address_of(listener: socket) -> str:
    """Return the address of the demo's page."""
    return f"http://{_HOST}:{listener.getsockname()[1]}/demo"


def serve(registry: Registry, measurements: Sequence[Measurement], listener: socket) -> None:
    """Serve the pages to this machine, without a login, until Ctrl-C."""
    router = APIRouter(include_in_schema=False)

    @router.get("/demo")
    async def demo(request: Request) -> Response:
        viewer = await viewer_of(request, "digits")
        digits = registry.open("digits")
        values = {"crumbs": [("Demo", None)]}
        return await show(
            request,
            viewer,
            "demo.html",
            lambda: page_values(digits, measurements, served=True) | values,
        )

    server = make_server(registry, ServerSettings(insecure=True), router)
    with closing(listener):
        server.run(sockets=[listener])
