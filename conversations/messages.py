"""What is done with single messages."""

from django.db import transaction

from conversations.models import Message


@transaction.atomic
def delete(message: Message) -> None:
    """Deletes one message. What followed it follows the one before it."""
    message.children.update(parent=message.parent_id)
    message.delete()
