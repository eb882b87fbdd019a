"""API tokens: made, found by their secret, and revoked. Synchronous.

A secret is 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess.
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from conversations import audit
from conversations.models import ApiToken, Budget
from providers.models import Configuration

PREFIX: Final = "llmchat-"  # by which people, and scanners of code, know what they found
SHOWN: Final = len(PREFIX) + 6  # characters that stay readable
SECRET: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
USES_NOTED: Final = timedelta(minutes=1)  # between two notes of a use


def make(
    user: AbstractBaseUser,
    name: str,
    configurations: Collection[Configuration] = (),
    expires_at: datetime | None = None,
    monthly_usd: Decimal | None = None,
) -> tuple[ApiToken, str]:
    """A new token of `user` and its secret, which nobody can get again. With `configurations` it
    is good for those alone, and with `monthly_usd` for so much money in a month."""
    secret = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        token: ApiToken = ApiToken.objects.create(
            user_id=user.pk,
            name=name,
            prefix=secret[:SHOWN],
            sha256=_hash(secret),
            is_limited=bool(configurations),
            expires_at=expires_at,
        )
        token.configurations.set(configurations)
        if monthly_usd is not None:
            Budget.objects.create(token=token, limit_usd=monthly_usd)
    return token, secret


def find(secret: str) -> ApiToken | None:
    """The token with this secret, with its user, if it can be used; its use is noted."""
    if not SECRET.fullmatch(secret):
        return None  # whatever its length, it is neither hashed nor looked up
    token = ApiToken.objects.usable().select_related("user").filter(sha256=_hash(secret)).first()
    if token is not None:
        _note_use(token)
    return token


def bearer(authorization: str) -> str | None:
    """The secret in an Authorization header; None where that is of another scheme, or none."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def is_usable(token: ApiToken) -> bool:
    """Whether it still is."""
    return ApiToken.objects.usable().filter(pk=token.pk).exists()


def revoke(token: ApiToken) -> None:
    """From now on it opens nothing. When it was revoked first stays."""
    unrevoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None)
    with transaction.atomic():
        if unrevoked.update(revoked_at=timezone.now()):
            audit.token_revoked(token)


def _note_use(token: ApiToken) -> None:
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > USES_NOTED:
        unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - USES_NOTED)
        ApiToken.objects.filter(unnoted, pk=token.pk).update(last_used_at=now)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
