"""What is done with whole sessions."""

from django.contrib.auth.models import AbstractBaseUser

from conversations.models import ChatSession


def create(user: AbstractBaseUser) -> ChatSession:
    """A new session, for the model that the person chose last."""
    last = ChatSession.objects.visible_to(user).exclude(configuration=None).by_activity().first()
    return ChatSession.objects.create(
        user_id=user.pk, configuration_id=last.configuration_id if last else None
    )
