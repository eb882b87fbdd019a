"""`manage.py reencrypt_keys`: after a new encryption key was put first, uses it for all secrets."""

from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import transaction

from providers.fields import EncryptedText, SecretUnreadable
from providers.models import Configuration


class Command(BaseCommand):
    help = (
        "Encrypts the stored API keys anew with the first of ENCRYPTION_KEYS. When it has gone "
        "well, the others can be taken out of the list."
    )

    def handle(self, **options: Any) -> None:
        unreadable = []
        count = 0
        for pk in Configuration.objects.exclude(api_key="").values_list("pk", flat=True):
            with transaction.atomic():
                # Locked: a key that is entered at this moment must not be undone.
                row = Configuration.objects.select_for_update().filter(pk=pk).first()
                if row is None or not row.api_key:
                    continue
                try:
                    row.api_key = EncryptedText.of(row.api_key.reveal())
                except SecretUnreadable:
                    unreadable.append(row.slug)
                else:
                    Configuration.objects.filter(pk=pk).update(api_key=row.api_key)
                    count += 1
        self.stdout.write(f"encrypted anew: {count}")
        if unreadable:
            raise CommandError(
                "These keys can be read with none of ENCRYPTION_KEYS, and have to be entered "
                f"again in the admin: {', '.join(unreadable)}."
            )
