"""What is kept of a conversation. Querysets say who sees what: views start from `visible_to`."""

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from conversations.events import RunEvent, from_lines, unpack
from providers.models import Configuration

Viewer = AbstractBaseUser | AnonymousUser  # who asks; a stranger sees nothing
NEW_TITLE = "New chat"
TITLE_CHARACTERS = 200
NAME_CHARACTERS = 100  # of an attachment


def _id(user: Viewer) -> int:
    """An id that rows can be looked up by; a stranger's is nobody's."""
    return user.pk or 0


class ChatSessionQuerySet(models.QuerySet["ChatSession"]):
    def visible_to(self, user: Viewer) -> "ChatSessionQuerySet":
        return self.filter(user_id=_id(user))

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
        return self.filter(session__user_id=_id(user))


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
        return self.filter(user_id=_id(user))

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


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: Viewer) -> "RunQuerySet":
        return self.filter(user_id=_id(user))

    def running(self) -> "RunQuerySet":
        return self.filter(status=Run.Status.RUNNING)


class Run(models.Model):
    """One generation, from the request to its last event.

    `status` is the lock of its end: it leaves RUNNING once, by an update that filters on it.
    While it runs, `worker` owns it through a lease that the worker renews with its writes.
    """

    class Status(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped"
        ERROR = "error"
        INTERRUPTED = "interrupted"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="runs"
    )
    session = models.ForeignKey(
        ChatSession, null=True, on_delete=models.CASCADE, related_name="runs"
    )
    configuration = models.ForeignKey(
        Configuration, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    user_message = models.ForeignKey(
        Message, null=True, on_delete=models.SET_NULL, related_name="runs"
    )
    # Several runs may have written one answer: each but the first went on with it.
    assistant_message = models.ForeignKey(
        Message, null=True, on_delete=models.SET_NULL, related_name="written_by"
    )
    # As they were when it started: a configuration may change or go.
    configuration_slug = models.CharField(max_length=100)
    provider = models.CharField(max_length=30)
    model = models.CharField(max_length=200)
    schema = models.CharField(max_length=64, blank=True, db_default="", default="")  # its name
    input_tokens = models.PositiveIntegerField(default=0)  # estimated
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.RUNNING)
    idempotency_key = models.CharField(max_length=200, blank=True)
    fingerprint = models.CharField(max_length=64, blank=True)  # of what was asked, for the key
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    is_recoverable = models.BooleanField(default=False)
    retry_after = models.FloatField(null=True, blank=True)  # s
    worker = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    # The receipt of a stop: who asked, after which event, how long the provider took to be closed.
    stop_requested_at = models.DateTimeField(null=True)
    stop_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    stopped_after = models.PositiveIntegerField(null=True)  # the number of an event
    provider_closed_in = models.FloatField(null=True)  # s
    # How often a page had not received what was stored. It repairs itself, but it must not happen.
    # (Defaults in the database too: while versions change, older processes insert runs as well.)
    mismatches = models.PositiveIntegerField(db_default=0, default=0)
    is_compacted = models.BooleanField(db_default=False, default=False)
    started_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["session"], condition=Q(status="running"), name="one_run_per_session"
            ),
            models.UniqueConstraint(
                fields=["user", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="one_run_per_idempotency_key",
            ),
        ]
        indexes = [
            models.Index(fields=["lease_until"], condition=Q(status="running"), name="run_leases"),
            models.Index(
                fields=["ended_at"], condition=Q(is_compacted=False), name="runs_to_compact"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk} ({self.status})"

    @property
    def is_running(self) -> bool:
        return self.status == self.Status.RUNNING

    @property
    def answers_json(self) -> bool:
        """Whether its answer was to be JSON."""
        return bool(self.schema)

    @property
    def receipt(self) -> dict[str, Any] | None:
        """Who stopped it and how that went; None for a run that was not stopped. Times are ISO
        8601 in UTC and seconds, `after_event` is the number of the last event before the stop."""
        if self.status != self.Status.STOPPED or self.stop_requested_at is None:
            return None
        by = self.stop_requested_by
        return {
            "stopped_by": by.get_username() if by else None,
            "stopped_at": self.stop_requested_at.isoformat(),
            "after_event": self.stopped_after,
            "provider_closed_in": self.provider_closed_in,
        }


class EventBatch(models.Model):
    """Events `first` to `last` of a run, as they were sent: one JSON object a line.

    Text, not JSON, so that what is read again is byte for byte what was written. Once a run is
    compacted all its lines are in one row, and `packed` (zlib) instead.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="event_batches")
    first = models.PositiveIntegerField()
    last = models.PositiveIntegerField()
    lines = models.TextField(blank=True)
    packed = models.BinaryField(null=True)

    class Meta:
        verbose_name_plural = "event batches"
        constraints = [
            models.UniqueConstraint(fields=["run", "first"], name="event_numbers_are_unique")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.first} to {self.last}"

    @property
    def text(self) -> str:
        """Its lines, packed or not."""
        return self.lines if self.packed is None else unpack(self.packed)

    @property
    def events(self) -> list[RunEvent]:
        return from_lines(self.first, self.text)


class UsageLogQuerySet(models.QuerySet["UsageLog"]):
    def visible_to(self, user: Any) -> "UsageLogQuerySet":
        """A person's own rows; all of them for staff."""
        return self.all() if user.is_staff else self.filter(user_id=user.pk)


class UsageLog(models.Model):
    """What one run used. Written once with the run's end, and kept when its session is deleted:
    the references are plain ids, and what they named is written out."""

    run = models.OneToOneField(
        Run,
        primary_key=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="usage",
    )
    session = models.ForeignKey(
        ChatSession, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="usage_logs"
    )
    username = models.CharField(max_length=150, blank=True)
    configuration = models.CharField(max_length=100)  # slug
    provider = models.CharField(max_length=30)  # kind
    model = models.CharField(max_length=200)
    status = models.CharField(max_length=12, choices=Run.Status.choices)
    code = models.CharField(max_length=40, blank=True)
    finish_reason = models.CharField(max_length=20, blank=True)
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    reasoning_tokens = models.PositiveIntegerField(null=True)
    cached_tokens = models.PositiveIntegerField(null=True)
    is_estimated = models.BooleanField(default=False)
    cost_usd = models.DecimalField(max_digits=20, decimal_places=10, null=True)
    cost_source = models.CharField(max_length=10, default="unknown")
    time_to_first_chunk = models.FloatField(null=True)  # s
    processing_time = models.FloatField(null=True)  # s
    tokens_per_second = models.FloatField(null=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()

    objects = UsageLogQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]
        indexes = [models.Index(fields=["user", "-started_at"], name="usage_by_user")]

    def __str__(self) -> str:
        return f"{self.configuration}: {self.status}"

    @property
    def total_tokens(self) -> int | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


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
