"""The context ledger: what became of each message of a session when one request was made."""

from dataclasses import dataclass
from typing import Any

from django.db.models.functions import Substr

from conversations.models import Run

SHOWN = 600  # characters of a message
REASONS = {
    "window": "does not fit the context window",
    "limit": "beyond the limit of earlier messages",
    "failed": "failed, so not part of the conversation",
    "branch": "on another branch",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One message. `reason` says why it was left out, and is empty for one that was sent."""

    id: int | None
    role: str
    text: str
    tokens: int | None
    reason: str
    attachments: Any = ()

    @property
    def is_sent(self) -> bool:
        return not self.reason


def entries(run: Run, sent: dict[str, Any]) -> list[Entry]:
    """The messages before the question of `run`, whose `request_data` is `sent`, in their order."""
    found = {
        message["id"]: Entry(
            message["id"],
            message["role"],
            message["content"],
            message["tokens"],
            "",
            message.get("attachments", ()),
        )
        for message in sent.get("context_messages", ())
        if message["id"] is not None
    }
    unnamed = [
        Entry(None, message["role"], message["content"], message["tokens"], "")
        for message in sent.get("context_messages", ())
        if message["id"] is None
    ]
    reasons = {left_out["id"]: left_out["reason"] for left_out in sent.get("left_out", ())}
    # A caller who brings the whole conversation has it sent whole; what is stored are its copies.
    for pk, role, text, tokens in [] if unnamed else _stored(run, sent):
        if pk not in found:
            reason = reasons.pop(pk, "branch")
            found[pk] = Entry(pk, role, text, tokens, REASONS.get(reason, reason))
    for pk, reason in reasons.items():  # they were deleted since
        if pk not in found:
            found[pk] = Entry(pk, "", "", None, REASONS.get(reason, reason))
    return [*(found[pk] for pk in sorted(found)), *unnamed]


def _stored(run: Run, sent: dict[str, Any]) -> list[tuple[int, str, str, int]]:
    question = sent.get("metadata", {}).get("message_id")
    if run.session is None or question is None:
        return []
    before = run.session.messages.filter(pk__lt=question).order_by("pk")
    return list(before.values_list("pk", "role", Substr("content", 1, SHOWN), "tokens"))
