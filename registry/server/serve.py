"""The server process: its socket, its check of tokens, and the configuration of uvicorn."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import APIRouter

from registry.catalog.registry import Registry
from registry.server import tokens
from registry.server.app import application
from registry.server.connections import limited
from registry.server.settings import ServerSettings, SettingsError, is_loopback

_BACKLOG = 128
"""Connections that the kernel queues. Each takes a file descriptor before it can be rejected."""
_SHUTDOWN_SECONDS = 30
"""Seconds to finish the accepted requests after the signal to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket; port 0 selects a free port. Raises `SettingsError`."""
    try:
        # create_server() uses IPv4 by default, also for an address of IPv6.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error}") from error


def check_access(registry: Registry, host: str, settings: ServerSettings) -> None:
    """Raise `SettingsError` if the server would accept every client on a network, or no client."""
    if settings.insecure and not is_loopback(host):
        raise SettingsError(
            f"--insecure would accept every client that reaches {host}; it is for 127.0.0.1 only"
        )
    if not settings.insecure and not tokens.any_usable(registry.engine):
        raise SettingsError(
            "no token is in use, so every request would be rejected; run `registry token create "
            "NAME`, or serve this machine only with --insecure"
        )


def make_server(
    registry: Registry, settings: ServerSettings, *routers: APIRouter
) -> uvicorn.Server:
    """Return a server that is not running yet; ``routers`` are those of further pages.

    On SIGINT, SIGTERM or ``should_exit`` it answers the accepted requests, for up to
    `_SHUTDOWN_SECONDS`, and then returns from ``run``.
    """
    app = application(registry, settings)
    for router in routers:
        app.include_router(router)
    config = uvicorn.Config(
        app,
        lifespan="on",
        http=limited(app.state.service.connections),
        ws="none",
        log_config=None,  # uvicorn's messages would contain what clients send
        access_log=False,
        server_header=False,
        # Off without proxies: any client could choose its address with X-Forwarded-For, and so
        # avoid the limits per address.
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=[*settings.forwarded_allow_ips],
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
