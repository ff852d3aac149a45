"""What a server may be told about itself."""

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
"""By dataset and tool; more than one while a secret is being replaced."""


class SettingsError(RegistryError):
    """A setting of the server that cannot be used. The message never holds a secret."""


@dataclass(frozen=True)
class Settings:
    """Sizes are in bytes, times in seconds."""

    insecure: bool = False
    """Let everybody in. Only for a server that nobody but this machine reaches."""
    gather: int = 512
    """Requests to one dataset that are committed together, at most."""
    waiting: int = 2048
    """Requests that one dataset's commits may be behind; more are sent away for a moment."""
    connections: int = 4096
    """Open connections, at most; fewer where the process may not open so many files."""
    connections_per_address: int = 256
    """Open connections of one client, which is an IPv4 address or an IPv6 network of 64 bits."""
    header_timeout: float = 10.0
    """How long a request's head may take, from the opening of the connection or the last answer."""
    header_bytes: int = 64 << 10
    """The largest head of a request."""
    header_count: int = 100
    """Header fields of a request."""
    forwarded_allow_ips: tuple[str, ...] = ()
    """Addresses and networks of proxies, whose X-Forwarded-For names the client. They may open as
    many connections as there are."""
    body: int = 64 << 20
    """The largest request body."""
    rows: int = 10_000
    """Samples in a request body."""
    bodies: int = 384 << 20
    """The memory for all bodies at a time and for what is read from them, as it is estimated."""
    idle: float = 30.0
    """How long a body may pause while it is being sent."""
    patience: float = 10.0
    """How long a request waits for the database before it is told to come again."""
    rate: float = 1000.0
    """Requests a second per token, after a burst of twice as many."""
    secrets: Secrets = field(default_factory=dict, repr=False)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server at this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_proxies(text: str) -> tuple[str, ...]:
    """Read the addresses and networks of proxies, with commas between; raises `SettingsError`."""
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
    """Read ``{"digits": {"cvat": "secret", "argilla": ["new", "old"]}}``.

    Raises `SettingsError` without the text, which is secret.
    """
    try:
        given = json.loads(text)
    except ValueError:
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
