"""Encryption keys can be changed without entering the API keys again (A19)."""

import io
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from providers.fields import SecretUnreadable
from providers.models import Configuration

pytestmark = [pytest.mark.django_db, pytest.mark.contract("A19")]

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))


def configuration(slug: str, secret: str) -> Configuration:
    made = Configuration(name=slug, slug=slug, kind="openai", model="m")
    made.set_api_key(secret)
    made.save()
    return made


def test_the_old_key_can_go_once_all_are_encrypted_with_the_new_one(settings: Any):
    settings.ENCRYPTION_KEYS = [OLD]
    one = configuration("one", "sk-one-0123456789")
    configuration("none", "")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    said = io.StringIO()
    call_command("reencrypt_keys", stdout=said)
    assert said.getvalue() == "encrypted anew: 1\n"
    settings.ENCRYPTION_KEYS = [NEW]
    one.refresh_from_db()
    assert one.api_key.reveal() == "sk-one-0123456789"
    settings.ENCRYPTION_KEYS = [OLD]
    with pytest.raises(SecretUnreadable):
        one.api_key.reveal()


def test_a_key_that_nobody_can_read_is_named_and_the_others_are_done(settings: Any):
    settings.ENCRYPTION_KEYS = [LOST]
    configuration("lost", "sk-lost-0123456789")
    settings.ENCRYPTION_KEYS = [OLD]
    kept = configuration("kept", "sk-kept-0123456789")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    with pytest.raises(CommandError, match=r"entered again in the admin: lost\."):
        call_command("reencrypt_keys", stdout=io.StringIO())
    settings.ENCRYPTION_KEYS = [NEW]
    kept.refresh_from_db()
    assert kept.api_key.reveal() == "sk-kept-0123456789"
