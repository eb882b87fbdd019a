"""Runs, their events, what went to the provider and came back, and what each used."""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from conversations.events import RunEvent, from_lines, unpack
from conversations.models.chats import ChatSession, Message, Viewer, viewer_id
from providers.models import Configuration


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: Viewer) -> "RunQuerySet":
        return self.filter(user_id=viewer_id(user))

    def in_monitor_of(self, user: Viewer) -> "RunQuerySet":
        """A person's own runs; those of everybody for staff."""
        is_staff = getattr(user, "is_staff", False)
        return self.all() if is_staff else self.visible_to(user)

    def running(self) -> "RunQuerySet":
        return self.filter(status=Run.Status.RUNNING)


class Origin(models.TextChoices):
    """What a call to a provider was made for."""

    CHAT = "chat"
    API = "api"
    COMMAND = "command"  # manage.py ask
    REPLAY = "replay"  # of an earlier request, from the inspector
    STREAM_TEST = "stream_test"  # the monitor's test page
    CONNECTION_TEST = "connection_test"  # of a configuration, where it asks for an answer


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
    origin = models.CharField(
        max_length=20, choices=Origin.choices, db_default=Origin.CHAT, default=Origin.CHAT
    )
    replay_of = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="replays"
    )
    api_token = models.ForeignKey(
        "conversations.ApiToken", null=True, on_delete=models.SET_NULL, related_name="runs"
    )
    # As they were when it started: a configuration may change or go.
    configuration_revision = models.PositiveIntegerField(null=True)  # its number
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
            models.Index(fields=["-started_at"], name="runs_by_start"),
            models.Index(fields=["user", "-started_at"], name="runs_of_user"),
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
    origin = models.CharField(
        max_length=20, choices=Origin.choices, db_default=Origin.CHAT, default=Origin.CHAT
    )
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
    # USD per million tokens, as they were for this run: None is unknown, 0 was free.
    input_price = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    cached_input_price = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    output_price = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    time_to_first_chunk = models.FloatField(null=True)  # s
    processing_time = models.FloatField(null=True)  # s
    tokens_per_second = models.FloatField(null=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()

    objects = UsageLogQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]
        indexes = [
            models.Index(fields=["user", "-started_at"], name="usage_by_user"),
            models.Index(fields=["-started_at"], name="usage_by_start"),
            # For lists of what is rare: without them a page of it would read the whole log.
            models.Index(fields=["configuration", "-started_at"], name="usage_by_configuration"),
            models.Index(
                fields=["status", "-started_at"],
                condition=~Q(status="done"),
                name="usage_by_rare_status",
            ),
            models.Index(
                fields=["code", "-started_at"], condition=~Q(code=""), name="usage_by_code"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.configuration}: {self.status}"

    @property
    def total_tokens(self) -> int | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


class ProviderCall(models.Model):
    """One request of a run to its provider, as it went out, and what came back, as it came in.

    The request is stored as soon as it is sent, the rest with the end of the call. Secrets are
    masked before they come here.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="calls")
    attempt = models.PositiveSmallIntegerField()  # from 1; each retry is a call of its own
    method = models.CharField(max_length=10)
    url = models.TextField()
    headers = models.JSONField(default=list)  # [[name, value]], in their order
    body = models.BinaryField()  # zlib
    body_length = models.PositiveIntegerField()  # bytes, before packing
    body_sha256 = models.CharField(max_length=64)
    sent_at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True)  # None: no answer came
    response_headers = models.JSONField(default=list)
    headers_after = models.FloatField(null=True)  # s from sending to the answer's headers
    ended_after = models.FloatField(null=True)  # s from sending to the end of the call
    # zlib of JSON lines [milliseconds since sending, text], one for each line as it was complete.
    received = models.BinaryField(null=True)
    received_length = models.PositiveBigIntegerField(default=0)  # bytes that came in all
    is_cut = models.BooleanField(default=False)  # more came than is kept
    error_code = models.CharField(max_length=40, blank=True)

    class Meta:
        ordering = ["attempt"]
        constraints = [
            models.UniqueConstraint(fields=["run", "attempt"], name="one_row_per_attempt")
        ]
        indexes = [models.Index(fields=["sent_at"], name="calls_by_time")]

    def __str__(self) -> str:
        return f"{self.run_id}, attempt {self.attempt}"
