"""The branch of a conversation that is shown: messages are linked by parent, the newest wins."""

from collections import defaultdict
from collections.abc import Iterable

from conversations.models import ChatSession, Message


def shown(chat: ChatSession) -> list[Message]:
    """The messages of the branch shown, oldest first."""
    return newest_path(chat.messages.order_by("pk"))


def up_to(message: Message) -> list[Message]:
    """The messages before `message` in its branch, oldest first."""
    by_id = {other.pk: other for other in Message.objects.filter(session_id=message.session_id)}
    path: list[Message] = []
    parent_id = message.parent_id
    while parent_id is not None:
        path.append(by_id[parent_id])
        parent_id = by_id[parent_id].parent_id
    return path[::-1]


def newest_path(messages: Iterable[Message]) -> list[Message]:
    """From the newest first message down, at each step the newest of those that follow."""
    children: dict[int | None, list[Message]] = defaultdict(list)
    for message in messages:
        children[message.parent_id].append(message)
    path: list[Message] = []
    here: int | None = None
    while children[here]:
        path.append(children[here][-1])
        here = path[-1].pk
    return path
