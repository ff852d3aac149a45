"""``registry serve``: serve datasets over HTTP."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import Url, app
from registry.cli.media import Prefixes, Roots
from registry.cli.output import print_error
from registry.distribution import install_extra
from registry.io.media import media_reader

SECRETS_VARIABLE = "REGISTRY_WEBHOOK_SECRETS"
_EXTRA = (
    "fastapi",
    "itsdangerous",
    "jinja2",
    "markupsafe",
    "prometheus_client",
    "pydantic",
    "standardwebhooks",
    "starlette",
    "uvicorn",
)


@app.command()
def serve(  # noqa: PLR0913, PLR0917  # all of them are options
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Ask for no token; on this machine alone.")
    ] = False,
    secrets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help='The webhooks\' secrets, {"DATASET": {"cvat": "…", "argilla": "…"}}; '
            f"${SECRETS_VARIABLE} if not given.",
        ),
    ] = None,
    body: Annotated[int, typer.Option(min=1, metavar="MIB", help="The largest body.")] = 64,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second per token.")] = 1000,
    gather: Annotated[
        int, typer.Option(min=1, help="Requests to a dataset in one commit, at most.")
    ] = 512,
    rows: Annotated[int, typer.Option(min=1, help="Samples in a body.")] = 10_000,
    connections: Annotated[
        int, typer.Option(min=1, help="Open connections; the limit on files may allow fewer.")
    ] = 4096,
    connections_per_address: Annotated[
        int, typer.Option(min=1, help="Open connections of one client.")
    ] = 256,
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS,…",
            help="Proxies whose X-Forwarded-For is believed: 10.0.0.7, or networks as 10.0.0.0/24.",
        ),
    ] = "",
    root: Roots = None,
    fetch: Prefixes = None,
    url: Url = None,
) -> None:
    """Serve tools and people over HTTP: samples, webhooks, pages, health and metrics."""
    try:
        # Imported here: they need an extra, which the other commands must work without.
        from registry.server import serve as server  # noqa: PLC0415
        from registry.server import settings  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise  # a broken import in our own code is not a missing extra
        print_error(f"serving needs {error.name}; run: {install_extra('server')}")
        raise typer.Exit(1) from None
    # With times: uvicorn's own logging is off, since its messages quote requests.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    server_settings = settings.ServerSettings(
        insecure=insecure,
        commit_requests=gather,
        body_bytes=body << 20,
        body_rows=rows,
        connections=connections,
        connections_per_address=connections_per_address,
        forwarded_allow_ips=settings.parse_proxies(forwarded_allow_ips),
        rate=rate,
        secrets=settings.parse_secrets(_read_secrets(secrets)),
        media=media_reader(root or (), fetch or ()),
    )
    with closing(server_settings.media), connect(url) as registry:
        server.check_access(registry, host, server_settings)
        # Opened here rather than by uvicorn: with port 0 the URL is known only after that.
        with server.listen(host, port) as listener:
            authority = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            typer.echo(f"serving http://{authority}")
            server.make_server(registry, server_settings).run(sockets=[listener])


def _read_secrets(path: Path | None) -> str:
    # A file or an environment variable: other users can read the arguments of a process.
    return path.read_text() if path else os.environ.get(SECRETS_VARIABLE, "{}")
