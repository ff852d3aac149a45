"""Runs a server: open to nobody by mistake, and stopped with no request unanswered."""

from __future__ import annotations

import socket

import uvicorn

from registry.catalog.registry import Registry
from registry.server import tokens
from registry.server.app import application
from registry.server.connections import limited
from registry.server.settings import Settings, SettingsError, is_loopback

_BACKLOG = 128
"""Connections that are accepted at a time; they count as open files before they are refused."""
_FAREWELL = 30
"""Seconds that requests have to be answered when the server is told to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket; port 0 takes one that is free."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error}") from error


def check_access(registry: Registry, host: str, settings: Settings) -> None:
    """Raise `SettingsError` where nobody, or everybody, would be let in."""
    if settings.insecure and not is_loopback(host):
        raise SettingsError(
            f"--insecure lets everybody in who reaches {host}; it is for 127.0.0.1 only"
        )
    if not settings.insecure and not tokens.any_usable(registry.engine):
        raise SettingsError(
            "no token is in use, so nobody could be let in; run `registry token create NAME`, or "
            "serve this machine alone with --insecure"
        )


def server(registry: Registry, settings: Settings) -> uvicorn.Server:
    """Return a server that is yet to be run.

    Told to stop, by a signal or its ``should_exit``, it answers what it accepted and ends.
    """
    app = application(registry, settings)
    config = uvicorn.Config(
        app,
        lifespan="on",
        http=limited(app.state.service.connections),
        ws="none",
        log_config=None,  # its lines would hold what clients send
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=[*settings.forwarded_allow_ips],
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_FAREWELL,
    )
    return uvicorn.Server(config)
