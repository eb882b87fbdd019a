"""The verbs of a run: start, retry, finish. Synchronous, each in one transaction.

`start` and `retry` store what was asked and give the engine a Plan; `finish` is called by the
journal's writer, inside its transaction, with what came of it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import branches, events
from conversations.errors import KeyReused, RunInProgress, TooManyRuns
from conversations.events import RunEvent
from conversations.models import ChatSession, EventBatch, Message, Run, UsageLog
from conversations.outcomes import Outcome
from conversations.planning import Asked, Plan, plan
from providers.models import Configuration
from providers.tokens import estimate

TITLE_FROM_PROMPT = 60  # characters


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that will drive a run, and for how many seconds its word holds."""

    worker: UUID
    lease: float


@dataclass(frozen=True, slots=True)
class Started:
    """A run, and its plan if it is new: a repeated idempotency key gives the run alone."""

    run: Run
    plan: Plan | None


# ---- starting


def start(
    user: AbstractBaseUser,
    chat: ChatSession,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
) -> Started:
    """Stores the question and a run for it. Raises a Refusal, and then stores nothing."""

    def store_question() -> tuple[Message, list[Message]]:
        branch = branches.shown(chat)
        question = Message.objects.create(
            session=chat,
            parent=branch[-1] if branch else None,
            role=Message.Role.USER,
            content=asked.prompt,
            tokens=estimate(asked.prompt),
        )
        _remember(chat, configuration, asked)
        return question, branch

    return _start(user, chat, configuration, asked, owner, store_question)


def retry(
    user: AbstractBaseUser,
    question: Message,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
) -> Started:
    """Asks a stored question again: the new answer is a branch beside what it had before."""
    asked = replace(asked, prompt=question.content)
    return _start(
        user,
        question.session,
        configuration,
        asked,
        owner,
        lambda: (question, branches.up_to(question)),
    )


def start_alone(configuration: Configuration, asked: Asked, owner: Owner) -> Started:
    """A run that belongs to no session and no person, for the command line."""
    return _start(None, None, configuration, asked, owner, lambda: (None, []))


Question = Callable[[], tuple[Message | None, list[Message]]]


def _start(
    user: AbstractBaseUser | None,
    chat: ChatSession | None,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
    store_question: Question,
) -> Started:
    fingerprint = _fingerprint(chat, configuration, asked)
    try:
        with transaction.atomic():
            if chat is not None:
                # One send at a time in a session: the second sees what the first has stored.
                ChatSession.objects.select_for_update().filter(pk=chat.pk).first()
            if repeated := _repeated(user, asked, fingerprint):
                return Started(repeated, None)
            if user is not None:
                _check_limits(user, chat)
            question, branch = store_question()
            now = timezone.now()
            planned = plan(configuration, asked, chat, question, branch, now)
            run = Run.objects.create(
                id=planned.run_id,
                user_id=user.pk if user else None,
                session=chat,
                configuration=configuration,
                user_message=question,
                configuration_slug=configuration.slug,
                provider=configuration.kind,
                model=configuration.model,
                input_tokens=planned.input_tokens,
                idempotency_key=asked.idempotency_key,
                fingerprint=fingerprint,
                worker=owner.worker,
                lease_until=now + timedelta(seconds=owner.lease),
            )
            EventBatch.objects.create(
                run=run, first=1, last=2, lines=events.to_lines(planned.opening)
            )
            return Started(run, planned)
    except IntegrityError:
        # Somebody was faster: the same key in another request, or another send in this chat.
        if repeated := _repeated(user, asked, fingerprint):
            return Started(repeated, None)
        raise RunInProgress from None


def _repeated(user: AbstractBaseUser | None, asked: Asked, fingerprint: str) -> Run | None:
    if user is None or not asked.idempotency_key:
        return None
    run = Run.objects.filter(user_id=user.pk, idempotency_key=asked.idempotency_key).first()
    if run is not None and run.fingerprint != fingerprint:
        raise KeyReused
    return run


def _check_limits(user: AbstractBaseUser, chat: ChatSession | None) -> None:
    running = list(Run.objects.running().filter(user_id=user.pk).values_list("session_id"))
    if chat is not None and (chat.pk,) in running:
        raise RunInProgress
    if len(running) >= settings.RUNS_PER_USER:
        raise TooManyRuns


def _fingerprint(chat: ChatSession | None, configuration: Configuration, asked: Asked) -> str:
    told = [
        str(chat.pk) if chat else None,
        configuration.pk,
        asked.prompt,
        asdict(asked.parameters),
        asked.context_limit,
    ]
    return hashlib.sha256(events.encode(told).encode()).hexdigest()


def _remember(chat: ChatSession, configuration: Configuration, asked: Asked) -> None:
    """The session's title, and what its form shows next time."""
    if not chat.title and not chat.is_renamed:
        chat.title = _title(asked.prompt)
    chat.configuration = configuration
    chat.temperature = asked.parameters.temperature
    chat.top_p = asked.parameters.top_p
    chat.max_tokens = asked.parameters.max_tokens
    chat.context_limit = asked.context_limit
    chat.last_activity_at = timezone.now()
    chat.save(
        update_fields=[
            "title",
            "configuration",
            "temperature",
            "top_p",
            "max_tokens",
            "context_limit",
            "last_activity_at",
        ]
    )


def _title(prompt: str) -> str:
    """The first words of the prompt."""
    words = " ".join(prompt.split())
    if len(words) <= TITLE_FROM_PROMPT:
        return words
    cut = words[: TITLE_FROM_PROMPT + 1].rsplit(" ", 1)[0]
    return f"{cut[:TITLE_FROM_PROMPT]}…"


# ---- stopping


def request_stop(run_id: UUID) -> tuple[UUID | None, bool]:
    """Stores that a run is to be stopped, for the process that owns it. Gives that process, None
    if the run has ended, and whether nobody had asked before."""
    running = Run.objects.running().filter(pk=run_id)
    is_first = running.filter(stop_requested_at=None).update(stop_requested_at=timezone.now()) == 1
    return running.values_list("worker", flat=True).first(), is_first


# ---- ending


def finish(run_id: UUID, outcome: Outcome, number: int) -> RunEvent:
    """Stores what came of a running run and gives its end event, which has this `number`.

    Called inside a transaction that holds the run's row and has seen it running: that, and that
    it is no longer running afterwards, is what makes the end the only one.
    """
    run = Run.objects.select_related("session", "user", "user_message").get(pk=run_id)
    answer = _store_answer(run, outcome) if outcome.has_answer else None
    prompt_returned = outcome.status == Run.Status.STOPPED and answer is None
    _settle_question(run, outcome, prompt_returned=prompt_returned)
    run.status = outcome.status
    run.assistant_message = answer
    run.ended_at = ended_at = timezone.now()
    if outcome.failure:
        run.error_code = outcome.failure.code
        run.error_message = outcome.failure.message
        run.is_recoverable = outcome.failure.recoverable
        run.retry_after = outcome.failure.retry_after
    run.save(
        update_fields=[
            "status",
            "assistant_message",
            "ended_at",
            "error_code",
            "error_message",
            "is_recoverable",
            "retry_after",
        ]
    )
    _log_usage(run, outcome, ended_at)
    if outcome.failure:
        return RunEvent(
            number,
            "error",
            events.error(outcome.failure, assistant_message_id=answer.pk if answer else None),
        )
    return RunEvent(
        number,
        "done",
        events.done(
            assistant_message_id=answer.pk if answer else None,
            full_response=outcome.text,
            finish_reason=outcome.finish_reason,
            provider_finish_reason=outcome.provider_finish_reason,
            stopped=outcome.status == Run.Status.STOPPED,
            metrics=outcome.metrics.fields,
        ),
    )


ANSWER_STATUS = {
    Run.Status.DONE: Message.Status.COMPLETE,
    Run.Status.STOPPED: Message.Status.STOPPED,
    Run.Status.ERROR: Message.Status.FAILED,
    Run.Status.INTERRUPTED: Message.Status.FAILED,
}


def _store_answer(run: Run, outcome: Outcome) -> Message | None:
    """The assistant's message; None for a run without a session, whose text is in its events."""
    if run.session is None:
        return None
    run.session.last_activity_at = timezone.now()
    run.session.save(update_fields=["last_activity_at"])
    return Message.objects.create(
        session=run.session,
        parent=run.user_message,
        role=Message.Role.ASSISTANT,
        status=ANSWER_STATUS[outcome.status],
        content=outcome.text,
        reasoning=outcome.reasoning,
        reasoning_seconds=outcome.reasoning_seconds,
        tool_calls=outcome.tool_calls,
        tokens=estimate(outcome.text),
    )


def _settle_question(run: Run, outcome: Outcome, *, prompt_returned: bool) -> None:
    """The question of a failed run is no context; one that was stopped unanswered goes back to
    its writer, unless an earlier answer hangs on it."""
    question, chat = run.user_message, run.session
    if question is None or chat is None:
        return
    if prompt_returned and not question.children.exists():
        run.user_message = None
        question.delete()
        if not chat.is_renamed and not chat.messages.exists():
            chat.title = ""
            chat.save(update_fields=["title"])
        return
    question.status = Message.Status.FAILED if outcome.failure else Message.Status.COMPLETE
    question.save(update_fields=["status"])


def _log_usage(run: Run, outcome: Outcome, ended_at: datetime) -> None:
    metrics = outcome.metrics
    UsageLog.objects.create(
        run_id=run.pk,
        session_id=run.session_id,
        user=run.user,
        username=run.user.get_username() if run.user else "",
        configuration=run.configuration_slug,
        provider=run.provider,
        model=run.model,
        status=run.status,
        code=run.error_code,
        finish_reason=outcome.finish_reason or "",
        prompt_tokens=metrics.prompt_tokens,
        completion_tokens=metrics.completion_tokens,
        reasoning_tokens=metrics.reasoning_tokens,
        cached_tokens=metrics.cached_tokens,
        is_estimated=metrics.estimated,
        cost_usd=metrics.cost_usd,
        cost_source=metrics.cost_source,
        time_to_first_chunk=metrics.time_to_first_chunk,
        processing_time=metrics.processing_time,
        tokens_per_second=metrics.tokens_per_second,
        started_at=run.started_at,
        ended_at=ended_at,
    )
