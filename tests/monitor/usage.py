"""Runs and usage rows as finished runs leave them, for tests that look at many."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User
from django.test import Client

from conversations.models import ChatSession, Run, UsageLog

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HTML = "text/html,application/xhtml+xml"


def signed_in(user: User) -> Client:
    """A browser in which this person is signed in."""
    client = Client(headers={"Accept": HTML})
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def row(user: User | None, at: datetime = NOON, **fields: Any) -> UsageLog:
    """A usage row that is not stored, of a run that took two seconds."""
    return UsageLog(
        **{
            "run_id": uuid4(),
            "user": user,
            "username": user.username if user else "",
            "configuration": "double",
            "provider": "openai",
            "model": "double-1",
            "status": "done",
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cost_usd": "0.25",
            "cost_source": "computed",
            "time_to_first_chunk": 0.5,
            "processing_time": 2.0,
            "tokens_per_second": 3.0,
            "started_at": at,
            "ended_at": at + timedelta(seconds=2),
            **fields,
        }
    )


def ended(
    user: User, at: datetime = NOON, chat: ChatSession | None = None, **fields: Any
) -> UsageLog:
    """A run that has ended and its usage row, both stored."""
    usage = row(user, at, session=chat, **fields)
    run = Run.objects.create(
        id=usage.run_id,
        user=user,
        session=chat,
        configuration_slug=usage.configuration,
        provider=usage.provider,
        model=usage.model,
        status=usage.status,
        error_code=usage.code,
        ended_at=usage.ended_at,
    )
    Run.objects.filter(pk=run.pk).update(started_at=at)
    usage.save(force_insert=True)
    return usage


def running(user: User, at: datetime = NOON, **fields: Any) -> Run:
    """A run that has not ended, which nobody drives."""
    run = Run.objects.create(
        user=user,
        **{"configuration_slug": "double", "provider": "openai", "model": "double-1", **fields},
    )
    Run.objects.filter(pk=run.pk).update(started_at=at)
    return run
