"""A request and its replays side by side."""

from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString, mark_safe

from conversations.events import joined_text
from conversations.journal import stored_events
from conversations.models import ProviderCall, Run, UsageLog
from conversations.models.chats import Viewer
from conversations.rendering import render

MOST = 8  # replays that are shown, the newest


@dataclass(frozen=True, slots=True)
class Column:
    """One run with its answer. `sha256` is that of the body it sent last, "" where unknown."""

    run: Run
    blocks: list[SafeString]
    reasoning: str
    sha256: str
    is_original: bool
    has_same_body: bool

    @property
    def usage(self) -> UsageLog | None:
        return getattr(self.run, "usage", None)


def column(run: Run, original: Run) -> Column:
    """The column of `run`, which is `original` or a replay of it."""
    events = stored_events(run.pk)
    sha256 = _sha256(run)
    html = render(joined_text(events, "chunk"), is_json=run.answers_json)
    return Column(
        run=run,
        blocks=[mark_safe(block) for block in html],  # noqa: S308 - sanitised by `render`
        reasoning=joined_text(events, "reasoning"),
        sha256=sha256,
        is_original=run.pk == original.pk,
        has_same_body=bool(sha256) and sha256 == _sha256(original),
    )


def columns(original: Run, viewer: Viewer) -> tuple[list[Column], int]:
    """The original and its newest replays that `viewer` may see, the newest first, and how many
    older ones there are."""
    replays = (
        Run.objects.in_monitor_of(viewer)
        .filter(replay_of=original)
        .select_related("usage")
        .order_by("-started_at")
    )
    older = max(replays.count() - MOST, 0)
    return [column(run, original) for run in (original, *replays[:MOST])], older


def _sha256(run: Run) -> str:
    found: Any = (
        ProviderCall.objects.filter(run=run)
        .order_by("-attempt")
        .values_list("body_sha256", flat=True)
        .first()
    )
    return found or ""
