"""Secrets at rest: encrypted in the database, and never a readable value by accident."""

from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

from providers import known_secrets


class SecretUnreadable(Exception):
    """A stored secret was encrypted with a key that is no longer among ENCRYPTION_KEYS."""


def fernet() -> MultiFernet:
    """Encrypts with the first of ENCRYPTION_KEYS, decrypts with any of them."""
    return MultiFernet([Fernet(key) for key in settings.ENCRYPTION_KEYS])


class EncryptedText:
    """A secret as the database holds it. It shows nothing; `reveal()` is the only way in."""

    def __init__(self, token: str) -> None:
        self.token = token

    @classmethod
    def of(cls, secret: str) -> "EncryptedText":
        known_secrets.remember(secret)
        return cls(fernet().encrypt(secret.encode()).decode() if secret else "")

    def reveal(self) -> str:
        """The secret, "" if there is none. Raises SecretUnreadable if its key is gone."""
        if not self.token:
            return ""
        try:
            secret = fernet().decrypt(self.token.encode()).decode()
        except InvalidToken:
            raise SecretUnreadable from None
        known_secrets.remember(secret)
        return secret

    def __bool__(self) -> bool:
        return bool(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncryptedText) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)

    def __repr__(self) -> str:
        return "<secret>" if self.token else "<no secret>"

    __str__ = __repr__


class EncryptedTextField(models.TextField[Any, Any]):
    """A column of EncryptedText. A plain string given to it is encrypted on the way in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("blank", True)
        kwargs.setdefault("default", "")
        kwargs["editable"] = False  # forms offer a write-only box of their own
        super().__init__(*args, **kwargs)

    def from_db_value(self, value: str | None, *_: Any) -> EncryptedText:
        return EncryptedText(value or "")

    def to_python(self, value: Any) -> EncryptedText:
        return value if isinstance(value, EncryptedText) else EncryptedText.of(value or "")

    def get_prep_value(self, value: Any) -> str:
        return self.to_python(value).token
