"""What is kept of a conversation. Querysets say who sees what: views start from `visible_to`."""

from conversations.models.audit import AuditEvent
from conversations.models.budgets import Budget, BudgetPeriod, Reservation
from conversations.models.chats import (
    NAME_CHARACTERS,
    NEW_TITLE,
    TITLE_CHARACTERS,
    Attachment,
    ChatSession,
    Message,
    Preferences,
    Viewer,
)
from conversations.models.runs import EventBatch, Origin, ProviderCall, Run, UsageLog
from conversations.models.tokens import ApiToken

__all__ = [
    "NAME_CHARACTERS",
    "NEW_TITLE",
    "TITLE_CHARACTERS",
    "ApiToken",
    "Attachment",
    "AuditEvent",
    "Budget",
    "BudgetPeriod",
    "ChatSession",
    "EventBatch",
    "Message",
    "Origin",
    "Preferences",
    "ProviderCall",
    "Reservation",
    "Run",
    "UsageLog",
    "Viewer",
]
