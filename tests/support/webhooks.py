"""Webhook events, signed as the tools sign them, and the secrets for it."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from standardwebhooks import Webhook

from tests.support.servers import SECRETS

CVAT_SECRET = SECRETS["digits"]["cvat"][0]
ARGILLA_SECRET = SECRETS["digits"]["argilla"][0]


def signed_cvat(body: bytes, secret: str = CVAT_SECRET) -> str:
    return f"sha256={hmac.new(secret.encode(), body, sha256).hexdigest()}"


def signed_argilla(
    body: bytes, name: str, secret: str = ARGILLA_SECRET, ago: float = 0
) -> dict[str, str]:
    moment = datetime.now(UTC) - timedelta(seconds=ago)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, moment, body.decode()),
    }
