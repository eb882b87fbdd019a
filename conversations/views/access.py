"""What a request is about, looked up through the person who asks: a stranger gets a 404.

Plain functions that read the database; async views call them in the pool, once a request.
"""

from typing import Any, TypeVar
from uuid import UUID

from django.db import models
from django.http import Http404, HttpRequest

from conversations.models import ChatSession, Message, Preferences, Run
from conversations.views.answers import signed_in
from providers.models import Configuration

Row = TypeVar("Row", bound=models.Model)


def chat_of(request: HttpRequest, session_id: UUID) -> ChatSession:
    return _found(ChatSession.objects.visible_to(signed_in(request)).filter(pk=session_id))


def message_of(request: HttpRequest, message_id: int) -> Message:
    messages = Message.objects.visible_to(signed_in(request)).select_related("session")
    return _found(messages.filter(pk=message_id))


RUN_RELATIONS = (
    "session",
    "user_message",
    "assistant_message",
    "configuration",
    "usage",
    "stop_requested_by",
)


def run_of(request: HttpRequest, run_id: UUID) -> Run:
    runs = Run.objects.visible_to(signed_in(request)).select_related(*RUN_RELATIONS)
    return _found(runs.filter(pk=run_id))


def monitored_run_of(request: HttpRequest, run_id: UUID) -> Run:
    """One's own run; for staff, anybody's."""
    runs = Run.objects.in_monitor_of(signed_in(request)).select_related(*RUN_RELATIONS)
    return _found(runs.filter(pk=run_id))


def configuration_for(user: Any, id_or_slug: str, chat: ChatSession | None) -> Configuration:
    """The one that was named; else the chat's, if it can still be used; else the default."""
    usable = Configuration.objects.usable_by(user)
    if id_or_slug:
        try:
            return usable.find(id_or_slug)
        except Configuration.DoesNotExist:
            raise Http404("no such configuration") from None
    used_before = usable.filter(pk=chat.configuration_id or 0).first() if chat else None
    configuration = used_before or usable.preferred()
    if configuration is None:
        raise Http404("no configuration can be used")
    return configuration


def preferences_of(user: Any) -> Preferences:
    return Preferences.objects.filter(user=user).first() or Preferences(user=user)


def _found(queryset: models.QuerySet[Row]) -> Row:
    row = queryset.first()
    if row is None:
        raise Http404
    return row
