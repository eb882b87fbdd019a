"""What is done with whole sessions."""

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from conversations.errors import Gone
from conversations.models import ChatSession, Run


def create(user: AbstractBaseUser) -> ChatSession:
    """A new session, for the model that the person chose last."""
    last = ChatSession.objects.visible_to(user).exclude(configuration=None).by_activity().first()
    return ChatSession.objects.create(
        user_id=user.pk, configuration_id=last.configuration_id if last else None
    )


def lock(chat: ChatSession) -> None:
    """Keeps others from starting runs or deleting anything in a session until the transaction ends.
    Raises Gone if the session itself was deleted."""
    if ChatSession.objects.select_for_update().filter(pk=chat.pk).first() is None:
        raise Gone


@transaction.atomic
def delete(chat: ChatSession) -> Run | None:
    """Deletes a session with all that is in it. If a run is under way in it, that has to be
    stopped first: it is given back, and nothing is deleted."""
    lock(chat)
    running = Run.objects.running().filter(session=chat).first()
    if running is None:
        chat.delete()
    return running
