"""Commands for the HTTP server: `serve`, its tokens and the mappings of its webhooks."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Url, app, duration, pairs
from registry.cli.output import fail
from registry.cli.tables import Column, Listing, plain, print_facts
from registry.io.labeling import mapping_store as mappings
from registry.server import tokens
from registry.server.tokens import Token

SECRETS = "REGISTRY_WEBHOOK_SECRETS"
_EXTRA = ("fastapi", "prometheus_client", "pydantic", "standardwebhooks", "starlette", "uvicorn")

token = typer.Typer(no_args_is_help=True, help="Make and revoke the tokens that `serve` asks for.")
app.add_typer(token, name="token")

TokenName = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


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
            f"${SECRETS} if not given.",
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
    url: Url = None,
) -> None:
    """Serve labeling tools over HTTP: samples, webhooks, health and metrics."""
    try:
        # Imported here: they need an extra, which the other commands must work without.
        from registry.server import serve as running  # noqa: PLC0415
        from registry.server import settings  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise  # a broken import in our own code is not a missing extra
        fail(f"serving needs {error.name}; run: pip install 'registry[server]'")
        raise typer.Exit(1) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # A file or an environment variable: other users can read the arguments of a process.
    text = secrets.read_text() if secrets else os.environ.get(SECRETS, "{}")
    chosen = settings.Settings(
        insecure=insecure,
        gather=gather,
        body=body << 20,
        rows=rows,
        connections=connections,
        connections_per_address=connections_per_address,
        forwarded_allow_ips=settings.parse_proxies(forwarded_allow_ips),
        rate=rate,
        secrets=settings.parse_secrets(text),
    )
    with connect(url) as registry:
        running.check_access(registry, host, chosen)
        # Opened here rather than by uvicorn: with port 0 the URL is known only after that.
        with running.listen(host, port) as listener:
            at = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            typer.echo(f"serving {at}")
            running.server(registry, chosen).run(sockets=[listener])


@token.command()
def create(
    name: TokenName,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="The one dataset; all if not given.")
    ] = None,
    rights: Annotated[Literal["read", "write"], typer.Option(help="write reads, too.")] = "write",
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="90d, 12h; never if not given.")
    ] = None,
    url: Url = None,
) -> None:
    """Create a token and print its secret, which cannot be shown again."""
    lifetime = duration(expires) if expires is not None else None
    with connect(url) as registry:
        secret = tokens.create(
            registry.engine, name, dataset=dataset, rights=rights, lifetime=lifetime
        )
    typer.echo(secret)


@token.command(name="ls")
def list_tokens(as_json: AsJson = False, url: Url = None) -> None:
    """List the tokens; a name with ~ is a rotated token, which stays valid for its grace period."""
    with connect(url) as registry:
        found = tokens.tokens_of(registry.engine)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2, default=str))
        return
    listing = Listing(
        Column("name"),
        Column("dataset"),
        Column("rights", whole=True),
        Column("created", whole=True),
        Column("expires", whole=True),
        Column("state", whole=True),
    )
    listing.print(
        (
            each.name,
            each.dataset or "(all)",
            each.rights,
            f"{each.created_at:%Y-%m-%d}",
            f"{each.expires_at:%Y-%m-%d %H:%M}" if each.expires_at else "never",
            _state(each),
        )
        for each in found
    )


@token.command()
def revoke(name: TokenName, url: Url = None) -> None:
    """Revoke a token, and the tokens that it was rotated from."""
    with connect(url) as registry:
        tokens.revoke(registry.engine, name)
    typer.echo(f"{plain(name)} is revoked")


@token.command()
def rotate(
    name: TokenName,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old one stays good.")
    ] = "1d",
    url: Url = None,
) -> None:
    """Replace the secret of a token and print the new one."""
    until = duration(grace)
    with connect(url) as registry:
        typer.echo(tokens.rotate(registry.engine, name, grace=until))


@app.command()
def webhook(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's name.")],
    tool: Annotated[Literal["label-studio", "argilla"], typer.Argument(help="The labeling tool.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FEATURE=PATH",
            help="Where a feature's value is: text=data.text, label=result.mood, or of Argilla "
            "text=fields.text, label=values.mood. Repeat for each.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Set, or show, which part of a tool's annotations becomes which feature."""
    from registry.io.labeling import argilla  # noqa: PLC0415
    from registry.io.labeling.label_studio import webhook as label_studio  # noqa: PLC0415

    check_mapping = (argilla if tool == "argilla" else label_studio).check_mapping
    with connect(url) as registry:
        opened = registry.open(dataset)
        if mapping:
            given = pairs("--map", mapping)
            check_mapping(opened.features, given)
            mappings.set_mapping(registry.engine, opened.id, tool, given)
        found = mappings.mapping_of(registry.engine, opened.id, tool) or {}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_facts([*found.items()] or [("nothing set", "features take values of their own names")])


def _state(each: Token) -> str:
    if each.revoked_at is not None:
        return "revoked"
    return "in use" if each.usable(datetime.now(UTC)) else "expired"
