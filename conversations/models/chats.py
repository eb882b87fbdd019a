"""Sessions, their messages and attachments, and how a person wants the chat to behave."""

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from providers.models import Configuration

Viewer = AbstractBaseUser | AnonymousUser  # who asks; a stranger sees nothing
NEW_TITLE = "New chat"
TITLE_CHARACTERS = 200
NAME_CHARACTERS = 100  # of an attachment


def viewer_id(user: Viewer) -> int:
    """An id that rows can be looked up by; a stranger's is nobody's."""
    return user.pk or 0


class ChatSessionQuerySet(models.QuerySet["ChatSession"]):
    def visible_to(self, user: Viewer) -> "ChatSessionQuerySet":
        return self.filter(user_id=viewer_id(user))

    def by_activity(self) -> "ChatSessionQuerySet":
        return self.order_by("-last_activity_at", "-created_at")


class ChatSession(models.Model):
    """One conversation of one person, with the configuration and parameters last used in it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chat_sessions"
    )
    title = models.CharField(max_length=TITLE_CHARACTERS, blank=True)
    # A title that a person chose is never replaced by one made from the first words.
    is_renamed = models.BooleanField(default=False)
    configuration = models.ForeignKey(
        Configuration, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    system_instructions = models.TextField(blank=True)
    temperature = models.FloatField(null=True, blank=True)
    top_p = models.FloatField(null=True, blank=True)
    max_tokens = models.PositiveIntegerField(null=True, blank=True)
    context_limit = models.PositiveIntegerField(null=True, blank=True)
    schema = models.TextField(blank=True, db_default="", default="")  # as typed: a slug, or JSON
    created_at = models.DateTimeField(auto_now_add=True)
    last_activity_at = models.DateTimeField(auto_now_add=True)

    objects = ChatSessionQuerySet.as_manager()

    class Meta:
        verbose_name = "session"
        indexes = [models.Index(fields=["user", "-last_activity_at"], name="session_by_activity")]

    def __str__(self) -> str:
        return self.title or NEW_TITLE

    def get_absolute_url(self) -> str:
        return reverse("chat", args=[self.pk])


class MessageQuerySet(models.QuerySet["Message"]):
    def visible_to(self, user: Viewer) -> "MessageQuerySet":
        return self.filter(session__user_id=viewer_id(user))


class Message(models.Model):
    """One message. `parent` is the message it follows: several children are branches."""

    class Role(models.TextChoices):
        SYSTEM = "system"
        USER = "user"
        ASSISTANT = "assistant"
        TOOL = "tool"

    class Status(models.TextChoices):
        COMPLETE = "complete"
        STOPPED = "stopped"  # an answer that a person cut; it counts as context
        FAILED = "failed"  # a question without an answer, or what came before an error

    session = models.ForeignKey(ChatSession, on_delete=models.CASCADE, related_name="messages")
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="children"
    )
    role = models.CharField(max_length=10, choices=Role.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.COMPLETE)
    content = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    reasoning_seconds = models.FloatField(null=True, blank=True)
    tool_calls = models.JSONField(default=list, blank=True)  # [{"id", "name", "arguments"}]
    # Of an answer that was to be JSON: {"schema", "valid", "problems": [{"path", "message"}]}.
    structured = models.JSONField(null=True)
    tokens = models.PositiveIntegerField(default=0)  # estimated, or the provider's own count
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:60]}"


class AttachmentQuerySet(models.QuerySet["Attachment"]):
    def visible_to(self, user: Viewer) -> "AttachmentQuerySet":
        return self.filter(user_id=viewer_id(user))

    def unsent(self) -> "AttachmentQuerySet":
        return self.filter(message=None)


class AttachmentManager(models.Manager.from_queryset(AttachmentQuerySet)):  # type: ignore[misc]
    """Reads the bytes only where they are asked for."""

    def get_queryset(self) -> AttachmentQuerySet:
        attachments: AttachmentQuerySet = super().get_queryset().defer("data")
        return attachments


class Attachment(models.Model):
    """An image, as models get it. It belongs to who uploaded it, and once sent to a message."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="attachments"
    )
    message = models.ForeignKey(
        Message, null=True, on_delete=models.CASCADE, related_name="attachments"
    )
    position = models.PositiveSmallIntegerField(default=0)  # among those of its message
    name = models.CharField(max_length=NAME_CHARACTERS)  # of the file that was uploaded
    media_type = models.CharField(max_length=20)
    width = models.PositiveIntegerField()  # px, as the next one
    height = models.PositiveIntegerField()
    size = models.PositiveIntegerField()  # bytes
    sha256 = models.CharField(max_length=64)
    data = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = AttachmentManager()

    class Meta:
        ordering = ["position", "created_at"]
        indexes = [
            models.Index(
                fields=["created_at"], condition=Q(message=None), name="unsent_attachments"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("attachment", args=[self.pk])

    @property
    def fields(self) -> dict[str, Any]:
        """What its owner is told of it. `width` and `height` are pixels, `size` bytes."""
        return {
            "id": str(self.pk),
            "name": self.name,
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "size": self.size,
            "url": self.get_absolute_url(),
        }


class Preferences(models.Model):
    """How one person wants the chat to behave."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        primary_key=True,
        on_delete=models.CASCADE,
        related_name="preferences",
    )
    streams_answers = models.BooleanField(default=True)

    class Meta:
        verbose_name_plural = "preferences"

    def __str__(self) -> str:
        return f"preferences of {self.user_id}"
