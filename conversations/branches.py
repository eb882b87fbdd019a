"""The branch of a conversation that is shown: messages are linked by parent, the newest wins."""

from collections import defaultdict
from collections.abc import Iterable

from conversations.models import ChatSession, Message

MOST_SENT = 100  # earlier messages that a request may have (contract C1)
# What tells where a message belongs and whether it counts: in a long chat the texts of the
# messages that are not sent would be most of what is read.
LIGHT = ("session", "parent", "role", "status", "tokens", "created_at")


def shown(chat: ChatSession) -> list[Message]:
    """The messages of the branch shown, oldest first."""
    return newest_path(chat.messages.order_by("pk"))


def before_next(chat: ChatSession) -> list[Message]:
    """The same, for a request: only those that may be sent have been read whole."""
    return _with_texts(newest_path(chat.messages.only(*LIGHT).order_by("pk")))


def up_to(message: Message) -> list[Message]:
    """The messages before `message` in its branch, oldest first, likewise."""
    messages = Message.objects.filter(session_id=message.session_id).only(*LIGHT)
    by_id = {other.pk: other for other in messages}
    path: list[Message] = []
    parent_id = message.parent_id
    while parent_id is not None:
        path.append(by_id[parent_id])
        parent_id = by_id[parent_id].parent_id
    return _with_texts(path[::-1])


def _with_texts(path: list[Message]) -> list[Message]:
    counting = [message.pk for message in path if message.status != Message.Status.FAILED]
    whole = Message.objects.in_bulk(counting[-MOST_SENT:])
    return [whole.get(message.pk, message) for message in path]


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
