"""The settings of a server, and the parsing of those that are text."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from registry.errors import RegistryError
from registry.io.media import MediaReader

SIGNING = ("cvat", "argilla")
"""Tools whose webhooks are signed with a secret; Label Studio sends a token instead."""

Secrets = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Secrets by dataset and tool. A tool has more than one while its secret is being replaced."""


class SettingsError(RegistryError):
    """An invalid setting of the server. The message never contains a secret.

    Remedy: correct the option or the variable that the message names.
    """


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server. Sizes are in bytes, times in seconds."""

    insecure: bool = False
    """Accept requests without a token. Only for a server that listens on a loopback address."""
    commit_requests: int = 512
    """Requests to one dataset in one commit, at most."""
    queued_requests: int = 2048
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
    body_bytes: int = 64 << 20
    """The largest request body."""
    body_rows: int = 10_000
    """Samples in a request body, at most."""
    body_memory: int = 384 << 20
    """Estimated memory for all request bodies in progress and the values parsed from them."""
    idle_timeout: float = 30.0
    """How long a client may pause while it sends a body or reads an answer."""
    database_timeout: float = 10.0
    """How long a request waits for the database before it is answered with 503."""
    media: MediaReader = field(default_factory=MediaReader)
    """What reads the files and URIs that annotations name. The server does not close it."""
    fetch_timeout: float = 10.0
    """How long one event may fetch; an annotation of which something is missing is rejected."""
    session_seconds: int = 12 * 3600
    """How long a session of the pages lasts after the login."""
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
    proxies = [proxy.strip() for proxy in text.split(",") if proxy.strip()]
    for proxy in proxies:
        try:
            # Names are rejected: whoever controls their resolution could pose as the proxy.
            ipaddress.ip_network(proxy)
        except ValueError:
            raise SettingsError(
                f"{proxy!r} is no address of a proxy; name each as 10.0.0.7 or 10.0.0.0/24"
            ) from None
    return tuple(proxies)


def parse_secrets(text: str) -> Secrets:
    """Parse webhook secrets such as ``{"digits": {"cvat": "secret", "argilla": ["new", "old"]}}``.

    Raises `SettingsError`, whose message does not quote the text.
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        # "from None": a JSONDecodeError holds the whole text, with the secrets.
        raise SettingsError("the webhook secrets are not JSON") from None
    if not isinstance(parsed, dict) or not all(
        isinstance(tools, dict) for tools in parsed.values()
    ):
        raise SettingsError('write the webhook secrets as {"dataset": {"tool": "secret"}}')
    return {
        dataset: {tool: _secrets(dataset, tool, value) for tool, value in tools.items()}
        for dataset, tools in parsed.items()
    }


def _secrets(dataset: str, tool: str, value: object) -> tuple[str, ...]:
    if tool not in SIGNING:
        raise SettingsError(
            f"dataset {dataset!r}: {tool!r} takes no secret; those of {', '.join(SIGNING)} do"
        )
    values = value if isinstance(value, list) else [value]
    # An empty secret would accept the signature of anyone.
    secrets = [secret for secret in values if isinstance(secret, str) and secret]
    if not secrets or len(secrets) < len(values):
        raise SettingsError(f"dataset {dataset!r}: the secret of {tool!r} must be text, or a list")
    if tool == "argilla" and not all(map(_is_base64, secrets)):
        raise SettingsError(f"dataset {dataset!r}: the secret of Argilla is not base64")
    return tuple(secrets)


def _is_base64(secret: str) -> bool:
    try:
        Webhook(secret)
    except (ValueError, EmptyWebhookSecretError):
        return False
    return True
