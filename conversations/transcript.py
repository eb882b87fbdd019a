"""What a chat page shows: the branch as a list of entries, the sidebar, and the totals."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import zip_longest

from django.db.models import Count, Exists, OuterRef, Sum, prefetch_related_objects
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from conversations import branches, messages, structured
from conversations.models import ChatSession, Message, Run, UsageLog, Viewer
from conversations.money import dollars
from conversations.rendering import highlight_json, render

SIDEBAR_SESSIONS = 200
UNKNOWN_COST = "cost unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One question or one answer, as the page shows it.

    An answer that is being generated, or that failed before its first chunk, has no message.
    """

    kind: str  # "user" or "answer"
    message: Message | None
    run: Run | None
    usage: UsageLog | None
    blocks: list[SafeString]
    question_id: int | None = None
    is_last: bool = False

    @property
    def can_continue(self) -> bool:
        return (
            self.is_last
            and self.message is not None
            and self.question_id is not None
            and messages.is_cut(self.message, self.usage)
        )

    @property
    def structured(self) -> structured.View | None:
        return structured.view(self.message) if self.message else None

    @property
    def tool_calls(self) -> list[dict[str, str]]:
        """Its tool calls: the name, and the arguments as highlighted JSON."""
        calls = self.message.tool_calls if self.message else []
        htmls = _safe(highlight_json(call["arguments"]) for call in calls)
        return [
            {"name": call["name"], "html": html} for call, html in zip(calls, htmls, strict=True)
        ]

    @property
    def stopped_by(self) -> str:
        """Who stopped it, as its owner, who alone sees it here, would say."""
        run = self.run
        if run is None or run.stop_requested_by is None or run.stop_requested_by_id == run.user_id:
            return "you"
        return run.stop_requested_by.get_username()

    @property
    def stop_facts(self) -> str:
        """What the stop came to, in a sentence; empty where it is not known."""
        run = self.run
        if run is None or run.stopped_after is None or run.provider_closed_in is None:
            return ""
        return (
            f"After event {run.stopped_after}. The connection to the provider was closed in "
            f"{max(round(run.provider_closed_in * 1000), 1):,} ms."
        )

    @property
    def cost_label(self) -> str:
        if self.usage is None:
            return UNKNOWN_COST
        return cost_label(self.usage.cost_usd, self.usage.cost_source)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a session used so far."""

    tokens: int
    cost_usd: Decimal | None
    cost_label: str


def entries(chat: ChatSession) -> list[Entry]:
    """The entries of the branch shown, oldest first."""
    branch = branches.shown(chat)
    prefetch_related_objects(branch, "attachments")
    runs = (
        Run.objects.filter(session=chat)
        .select_related("usage", "stop_requested_by", "assistant_message")
        .order_by("started_at")
    )
    run_of_answer = {run.assistant_message_id: run for run in runs if run.assistant_message_id}
    # A question's latest run matters where no answer of it is shown, or a new one is under way.
    last_run = {run.user_message_id: run for run in runs if run.user_message_id}
    shown: list[Entry] = []
    for message, following in zip_longest(branch, branch[1:]):
        if message.role == Message.Role.ASSISTANT:
            run = run_of_answer.get(message.pk)
            latest = last_run.get(message.parent_id or 0)
            if latest is not None and latest.is_running:
                continue  # its question is asked again: the new answer takes this place
            if latest is not None and message.status == Message.Status.FAILED and _failed(latest):
                run = latest  # a retry failed before it had any text: its error is the news
            shown.append(answer_entry(run, message, message.parent_id))
        else:
            shown.append(question_entry(message))
            latest = last_run.get(message.pk)
            answered = following is not None and following.role == Message.Role.ASSISTANT
            if latest is not None and (latest.is_running or (not answered and _failed(latest))):
                # One that goes on with an answer begins with what that has.
                shown.append(answer_entry(latest, latest.assistant_message, message.pk))
    if shown:
        shown[-1] = _as_last(shown[-1])
    return shown


def question_entry(message: Message) -> Entry:
    return Entry("user", message, None, None, _safe(render(message.content, breaks=True)))


def answer_entry(run: Run | None, message: Message | None, question_id: int | None) -> Entry:
    return Entry(
        "answer",
        message,
        run,
        getattr(run, "usage", None),
        _safe(render(message.content, is_json=run is not None and run.answers_json))
        if message
        else [],
        question_id,
    )


def run_entry(run: Run) -> Entry | None:
    """The answer of a run as the page shows it; None where nothing of it was kept."""
    message = run.assistant_message
    if message is None and run.status in (Run.Status.STOPPED, Run.Status.DONE):
        return None
    return _as_last(answer_entry(run, message, run.user_message_id))


def _failed(run: Run) -> bool:
    return run.status in (Run.Status.ERROR, Run.Status.INTERRUPTED)


def _as_last(entry: Entry) -> Entry:
    return Entry(
        entry.kind, entry.message, entry.run, entry.usage, entry.blocks, entry.question_id, True
    )


def _safe(blocks: Iterable[str]) -> list[SafeString]:
    # Sanitised by the renderer, which is the only thing that makes them.
    return [mark_safe(block) for block in blocks]  # noqa: S308


def totals(chat: ChatSession) -> Totals:
    """Tokens and cost of all runs of a session, failed and stopped ones included."""
    logs = UsageLog.objects.filter(session_id=chat.pk)
    sums = logs.aggregate(
        input=Sum("prompt_tokens"), output=Sum("completion_tokens"), cost=Sum("cost_usd")
    )
    unknown = logs.filter(cost_usd=None).exclude(completion_tokens=None).aggregate(n=Count("pk"))
    label = cost_label(sums["cost"], "")
    if unknown["n"] and sums["cost"] is not None:
        label = f"at least {label}"
    return Totals((sums["input"] or 0) + (sums["output"] or 0), sums["cost"], label)


def cost_label(cost: Decimal | None, source: str) -> str:
    """Money with as many digits as it needs: "$0.00047", "$1.28", "free"; or that it is unknown."""
    if cost is None:
        return UNKNOWN_COST
    approximately = "≈" if source == "estimated" and cost else ""
    return f"{approximately}{dollars(cost)}"


def sidebar(user: Viewer) -> list[tuple[str, list[ChatSession]]]:
    """A person's sessions by last activity, in groups of days; running ones are marked."""
    running = Run.objects.running().filter(session=OuterRef("pk"))
    sessions = (
        ChatSession.objects.visible_to(user)
        .by_activity()
        .annotate(is_running=Exists(running))[:SIDEBAR_SESSIONS]
    )
    today = timezone.localdate()
    groups: dict[str, list[ChatSession]] = {}
    for chat in sessions:
        day = timezone.localdate(chat.last_activity_at)
        if day >= today:
            label = "Today"
        elif day == today - timedelta(days=1):
            label = "Yesterday"
        elif day > today - timedelta(days=7):
            label = "Last 7 days"
        else:
            label = "Older"
        groups.setdefault(label, []).append(chat)
    return list(groups.items())
