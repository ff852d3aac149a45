"""Webhook signatures: they prove who sent a body, that it is unchanged and, if timed, recent.

Secrets are compared by `hmac.compare_digest`. The time that ``==`` takes reveals how many leading
characters of a forged signature are right.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from standardwebhooks import Webhook, WebhookVerificationError

from registry.server.problems import Problem

_REJECTED = "the signature does not fit the body; is the secret the one that the tool has?"


@dataclass(frozen=True)
class Delivery:
    """One delivery of a signed event: the sender's id, and the time of signing.

    ``signed`` is in seconds since the epoch.
    """

    id: str
    signed: int


def check_cvat(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    """Raise `Problem` unless ``X-Signature-256`` is the HMAC of the body by one of the secrets."""
    signature = headers.get("x-signature-256", "").encode()
    expected_signatures = (f"sha256={_hmac(secret, body)}".encode() for secret in secrets)
    if not any(hmac.compare_digest(signature, expected) for expected in expected_signatures):
        raise Problem(401, _REJECTED)


def check_standard(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> Delivery:
    """Check a Standard Webhooks signature, and return the delivery that it signs.

    Raises `Problem` unless it fits one of the secrets and was made in the last 5 minutes.
    """
    timestamp = headers.get("webhook-timestamp", "")
    # isascii(): int() also reads the digits of other scripts, which the sender did not sign.
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 12
    delivery = Delivery(headers.get("webhook-id", ""), int(timestamp) if is_number else 0)
    if not any(_fits(Webhook(secret), headers, delivery, body) for secret in secrets):
        raise Problem(401, f"{_REJECTED} It may also be too old: is the sender's clock right?")
    return delivery


def _fits(webhook: Webhook, headers: Mapping[str, str], delivery: Delivery, body: bytes) -> bool:
    try:
        webhook.verify(body, dict(headers), json_parse=False)
        # verify() parses numbers and base64 leniently: it accepts other texts of the same values.
        # So the signature is computed again and compared as text.
        moment = datetime.fromtimestamp(delivery.signed, UTC)
        expected = webhook.sign(delivery.id, moment, body.decode())
    except (WebhookVerificationError, ValueError):
        return False
    signatures = headers["webhook-signature"].split(" ")
    return str(delivery.signed) == headers["webhook-timestamp"] and any(
        hmac.compare_digest(expected.encode(), signature.encode()) for signature in signatures
    )


def _hmac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, sha256).hexdigest()
