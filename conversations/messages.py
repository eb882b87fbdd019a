"""What is done with single messages."""

from django.db import transaction

from conversations import sessions
from conversations.errors import RunInProgress
from conversations.models import Message, Run, UsageLog
from providers.events import FinishReason


def is_cut(message: Message, usage: UsageLog | None) -> bool:
    """Whether this is an answer that ended too early and can be continued. `usage` is that of the
    run that wrote it last."""
    if message.role != Message.Role.ASSISTANT or not message.content or message.tool_calls:
        return False
    if message.status != Message.Status.COMPLETE:
        return True
    return usage is not None and usage.finish_reason == FinishReason.LENGTH


@transaction.atomic
def delete(message: Message) -> None:
    """Deletes one message. What followed it follows the one before it. Raises RunInProgress while
    an answer is written in its session."""
    sessions.lock(message.session)
    if Run.objects.running().filter(session=message.session).exists():
        raise RunInProgress
    message.children.update(parent=message.parent_id)
    message.delete()
