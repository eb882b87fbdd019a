"""Images that people attach to messages: kept in the database, bound to a message when it is sent.

Synchronous. `bind` and `give_back` are parts of the transactions of `runs`; `keep` has its own.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.utils import timezone

from conversations import context
from conversations.errors import BadValue
from conversations.models import NAME_CHARACTERS, Attachment, Message
from conversations.pictures import Picture
from providers.adapters.base import Feature, Image
from providers.models import Configuration

FIELD = "attachments"  # of a message, in requests
UNSENT_FOR = timedelta(days=1)  # then one that was not sent is removed
MOST_UNSENT = 50  # of a person; the oldest give way


def keep(user: AbstractBaseUser, name: str, picture: Picture) -> Attachment:
    """Stores an image that its owner may send. What was not sent for long goes meanwhile."""
    with transaction.atomic():
        Attachment.objects.unsent().filter(created_at__lt=timezone.now() - UNSENT_FOR).delete()
        mine = Attachment.objects.visible_to(user).unsent().order_by("-created_at")
        too_many = list(mine.values_list("pk", flat=True)[MOST_UNSENT - 1 :])
        Attachment.objects.unsent().filter(pk__in=too_many).delete()
        kept: Attachment = Attachment.objects.create(
            user_id=user.pk,
            name=" ".join(name.split())[:NAME_CHARACTERS] or "image",
            media_type=picture.media_type,
            width=picture.width,
            height=picture.height,
            size=len(picture.data),
            sha256=hashlib.sha256(picture.data).hexdigest(),
            data=picture.data,
        )
        return kept


def bind(
    user: AbstractBaseUser,
    ids: Sequence[UUID],
    question: Message,
    configuration: Configuration,
) -> None:
    """Makes these images of `user` the question's, in this order. Raises BadValue."""
    if not ids:
        return
    if not configuration.supports(Feature.VISION):
        raise BadValue(
            FIELD,
            f"{configuration.name} cannot see images. Choose another model, or remove the images.",
        )
    free = Attachment.objects.visible_to(user).unsent()
    for position, id_ in enumerate(ids):
        # The filter is the lock: of two messages that want the same image only one gets it.
        if not free.filter(pk=id_).update(message=question, position=position):
            raise BadValue(
                FIELD,
                "An image is no longer there, or was sent already. Remove it, and attach it again.",
            )


def keep_sent(
    user: AbstractBaseUser,
    message: Message,
    sent: Sequence[Image],
    pictures: Sequence[context.Picture],
) -> None:
    """Stores the images that a message came with; `pictures` says what is known of each."""
    for position, (image, picture) in enumerate(zip(sent, pictures, strict=True)):
        data = base64.b64decode(image.data)
        Attachment.objects.create(
            user_id=user.pk,
            message=message,
            position=position,
            name=picture.name,
            media_type=image.media_type,
            width=picture.width,
            height=picture.height,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            data=data,
        )


def give_back(question: Message) -> list[Attachment]:
    """Takes its images from a question that is about to be deleted, and gives them: its writer may
    send them again."""
    given = list(question.attachments.all())
    # As if they had just been uploaded: they stay for as long as those would.
    question.attachments.update(message=None, created_at=timezone.now())
    return given


def of(messages: Iterable[Message]) -> dict[int, list[context.Picture]]:
    """The images of these messages by the messages' ids, without their bytes."""
    pictures: dict[int, list[context.Picture]] = defaultdict(list)
    rows = Attachment.objects.filter(message__in=[message.pk for message in messages])
    for row in rows.values_list("message_id", "pk", "name", "width", "height"):
        message_id, *picture = row
        pictures[message_id].append(context.Picture(*picture))
    return dict(pictures)


def images(ids: Collection[UUID]) -> dict[UUID, Image]:
    """These images as adapters take them."""
    rows = Attachment.objects.filter(pk__in=ids).values_list("pk", "media_type", "data")
    return {
        id_: Image(media_type, base64.b64encode(bytes(data)).decode())
        for id_, media_type, data in rows
    }
