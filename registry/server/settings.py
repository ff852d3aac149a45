"""The configuration of a server."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from registry.errors import RegistryError

SIGNING = ("cvat", "argilla")
"""Tools whose webhooks are signed with a secret; Label Studio sends a token instead."""

Secrets = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Secrets by dataset and tool. A tool has more than one while its secret is being replaced."""


class SettingsError(RegistryError):
    """An invalid setting of the server. The message never contains a secret."""


@dataclass(frozen=True)
class Settings:
    """The settings of a server. Sizes are in bytes, times in seconds."""

    insecure: bool = False
    """Accept requests without a token. Only for a server that listens on a loopback address."""
    gather: int = 512
    """Requests to one dataset in one commit, at most."""
    waiting: int = 2048
    """Requests that may wait for a commit of one dataset; more are answered with 503."""
    connections: int = 4096
    """Open connections, at most; fewer if the process may not open so many files."""
    connections_per_address: int = 256
    """Open connections of one client, which is an IPv4 address or an IPv6 network of 64 bits."""
    header_timeout: float = 10.0
    """How long a request's head may take, since the connection was opened or the last answer."""
    header_bytes: int = 64 << 10
    """The largest request head."""
    header_count: int = 100
    """Header fields of a request, at most."""
    forwarded_allow_ips: tuple[str, ...] = ()
    """Addresses and networks of proxies, whose X-Forwarded-For header names the client. The limit
    on connections per address does not apply to them."""
    body: int = 64 << 20
    """The largest request body."""
    rows: int = 10_000
    """Samples in a request body, at most."""
    bodies: int = 384 << 20
    """Estimated memory for all request bodies in progress and the values parsed from them."""
    idle: float = 30.0
    """How long a client may pause while it sends a body or reads an answer."""
    patience: float = 10.0
    """How long a request waits for the database before it is answered with 503."""
    rate: float = 1000.0
    """Requests per second for each token, and a burst of twice as many."""
    # repr=False: otherwise a traceback or log that shows the settings would contain them.
    secrets: Secrets = field(default_factory=dict, repr=False)


def is_loopback(host: str) -> bool:
    """Return whether a server that listens at this host can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_proxies(text: str) -> tuple[str, ...]:
    """Parse the addresses and networks of proxies, separated by commas; raises `SettingsError`."""
    found = [each.strip() for each in text.split(",") if each.strip()]
    for each in found:
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise SettingsError(
                f"{each!r} is no address of a proxy; name each as 10.0.0.7 or 10.0.0.0/24"
            ) from None
    return tuple(found)


def parse_secrets(text: str) -> Secrets:
    """Parse webhook secrets such as ``{"digits": {"cvat": "secret", "argilla": ["new", "old"]}}``.

    Raises `SettingsError`, whose message does not quote the text.
    """
    try:
        given = json.loads(text)
    except ValueError:
        # "from None": a JSONDecodeError holds the whole text, with the secrets.
        raise SettingsError("the webhook secrets are not JSON") from None
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise SettingsError('write the webhook secrets as {"dataset": {"tool": "secret"}}')
    return {name: {t: _secret(name, t, s) for t, s in by.items()} for name, by in given.items()}


def _secret(dataset: str, tool: str, secret: object) -> tuple[str, ...]:
    if tool not in SIGNING:
        raise SettingsError(
            f"dataset {dataset!r}: {tool!r} takes no secret; those of {', '.join(SIGNING)} do"
        )
    given = secret if isinstance(secret, list) else [secret]
    listed = [each for each in given if isinstance(each, str) and each]
    if not listed or len(listed) < len(given):
        raise SettingsError(f"dataset {dataset!r}: the secret of {tool!r} must be text, or a list")
    if tool == "argilla" and not all(map(_is_standard, listed)):
        raise SettingsError(f"dataset {dataset!r}: the secret of Argilla is not base64")
    return tuple(listed)


def _is_standard(secret: str) -> bool:
    try:
        Webhook(secret)
    except (ValueError, EmptyWebhookSecretError):
        return False
    return True
