"""``registry token``: create, list, revoke and rotate the tokens of the HTTP server."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Url, app, parse_duration
from registry.cli.output import printable
from registry.cli.tables import Column, Listing
from registry.server import tokens
from registry.server.tokens import Token

token: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Make and revoke the tokens that `serve` asks for."
)
app.add_typer(token, name="token")

TokenName = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


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
    lifetime = parse_duration(expires) if expires is not None else None
    with connect(url) as registry:
        secret = tokens.create(
            registry.engine, name, dataset=dataset, rights=rights, lifetime=lifetime
        )
    # Nothing but the secret goes to stdout: scripts store the output.
    typer.echo(secret)


@token.command(name="ls")
def list_tokens(as_json: AsJson = False, url: Url = None) -> None:
    """List the tokens; a name with ~ is a rotated token, which stays valid for its grace period."""
    with connect(url) as registry:
        stored_tokens = tokens.tokens_of(registry.engine)
    if as_json:
        properties = [asdict(stored) for stored in stored_tokens]
        # default=str: the times are not of a JSON type.
        typer.echo(json.dumps(properties, indent=2, default=str))
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
            stored.name,
            stored.dataset or "(all)",
            stored.rights,
            f"{stored.created_at:%Y-%m-%d}",
            f"{stored.expires_at:%Y-%m-%d %H:%M}" if stored.expires_at else "never",
            _state(stored),
        )
        for stored in stored_tokens
    )


def _state(stored: Token) -> str:
    if stored.revoked_at is not None:
        return "revoked"
    return "in use" if stored.usable(datetime.now(UTC)) else "expired"


@token.command()
def revoke(name: TokenName, url: Url = None) -> None:
    """Revoke a token, and the tokens that it was rotated from."""
    with connect(url) as registry:
        tokens.revoke(registry.engine, name)
    # Not "since now": a running server accepts the token until its cache expires.
    typer.echo(f"{printable(name)} is revoked")


@token.command()
def rotate(
    name: TokenName,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old one stays good.")
    ] = "1d",
    url: Url = None,
) -> None:
    """Replace the secret of a token and print the new one."""
    grace_period = parse_duration(grace)
    with connect(url) as registry:
        typer.echo(tokens.rotate(registry.engine, name, grace=grace_period))
