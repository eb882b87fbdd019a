"""The verbs of a run: start, retry, go on, stop, finish. Synchronous, each in one transaction.

`start`, `retry` and `go_on` store what was asked and give the engine a Plan; `finish` is called by
the journal's writer, inside its transaction, with what came of it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import attachments, branches, budgets, events, messages, sessions
from conversations.context import Given
from conversations.errors import AnswerComplete, Gone, KeyReused, RunInProgress, TooManyRuns
from conversations.events import RunEvent
from conversations.models import Attachment, ChatSession, EventBatch, Message, Run, UsageLog
from conversations.outcomes import Outcome, Stop
from conversations.planning import Asked, Plan, plan
from providers.adapters.base import Parameters
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


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a run is about: the question, the messages before it, and the answer that it goes on
    with, if any."""

    question: Message | None = None
    branch: list[Message] = field(default_factory=list)
    cut: Message | None = None


# ---- starting


def start(
    user: AbstractBaseUser,
    chat: ChatSession,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
) -> Started:
    """Stores the question and a run for it. Raises a Refusal or, for attachments that cannot be
    sent, BadValue; then nothing is stored."""

    def store_question() -> _Turn:
        branch = branches.before_next(chat)
        question = Message.objects.create(
            session=chat,
            parent=branch[-1] if branch else None,
            role=Message.Role.USER,
            content=asked.prompt,
            tokens=estimate(asked.prompt),
        )
        attachments.bind(user, asked.attachments, question, configuration)
        _remember(chat, configuration, asked)
        return _Turn(question, branch)

    return _start(user, chat, configuration, asked, owner, store_question)


def retry(
    user: AbstractBaseUser,
    question: Message,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
) -> Started:
    """Asks a stored question again: the new answer is a branch beside what it had before."""

    def look_again() -> _Turn:
        if not Message.objects.filter(pk=question.pk).exists():
            raise Gone
        return _Turn(question, branches.up_to(question))

    asked = replace(asked, prompt=question.content)
    return _start(user, question.session, configuration, asked, owner, look_again)


def go_on(
    user: AbstractBaseUser,
    answer: Message,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
) -> Started:
    """Has an answer that was cut off continued, in the same message. Raises AnswerComplete where
    there is nothing to continue."""
    question = answer.parent
    if question is None:
        raise AnswerComplete

    def look_again() -> _Turn:
        # Under the session's lock, which an earlier run may have held: it may be whole by now.
        cut = Message.objects.filter(pk=answer.pk).first()
        if cut is None or not messages.is_cut(cut, _last_usage(cut)):
            raise AnswerComplete
        return _Turn(question, branches.up_to(question), cut)

    asked = replace(asked, prompt=question.content, continues=answer.pk)
    return _start(user, answer.session, configuration, asked, owner, look_again)


def _last_usage(answer: Message) -> UsageLog | None:
    return UsageLog.objects.filter(run__assistant_message=answer).order_by("started_at").last()


def start_alone(
    user: AbstractBaseUser | None, configuration: Configuration, asked: Asked, owner: Owner
) -> Started:
    """A run that belongs to no session, and from the command line to no person."""
    return _start(user, None, configuration, asked, owner, _Turn)


def start_saved(
    user: AbstractBaseUser, configuration: Configuration, asked: Asked, owner: Owner
) -> Started:
    """A run of a caller who brings the whole conversation, which is stored as a new session."""
    fingerprint = _fingerprint(None, configuration, asked)
    with transaction.atomic():
        if repeated := _repeated(user, asked, fingerprint):
            return Started(repeated, None)
        chat = sessions.create(user)

        def store_conversation() -> _Turn:
            said = [given for given in asked.messages if given.message.role != Message.Role.SYSTEM]
            chat.system_instructions = "\n\n".join(
                given.message.content
                for given in asked.messages
                if given.message.role == Message.Role.SYSTEM
            )
            chat.save(update_fields=["system_instructions"])
            _remember(chat, configuration, asked)
            last: Message | None = None
            for given in said:
                last = _store_given(user, chat, last, given)
            return _Turn(last)

        started = _start(user, chat, configuration, asked, owner, store_conversation, fingerprint)
        if started.plan is None:
            chat.delete()  # somebody was faster with the same key
        return started


def _store_given(
    user: AbstractBaseUser, chat: ChatSession, parent: Message | None, given: Given
) -> Message:
    said = given.message
    message: Message = Message.objects.create(
        session=chat,
        parent=parent,
        role=said.role,
        content=said.content,
        tool_calls=[asdict(call) for call in said.tool_calls],
        tokens=given.tokens,
    )
    attachments.keep_sent(user, message, said.images, given.pictures)
    return message


def _start(
    user: AbstractBaseUser | None,
    chat: ChatSession | None,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
    take_turn: Callable[[], _Turn],
    fingerprint: str = "",
) -> Started:
    fingerprint = fingerprint or _fingerprint(chat, configuration, asked)
    try:
        with transaction.atomic():
            if chat is not None:
                # One send at a time in a session: the second sees what the first has stored, or
                # that somebody has deleted the session or the message.
                sessions.lock(chat)
            if repeated := _repeated(user, asked, fingerprint):
                return Started(repeated, None)
            if user is not None:
                _check_limits(user, chat)
            turn = take_turn()
            now = timezone.now()
            planned = plan(configuration, asked, chat, turn.question, turn.branch, now, turn.cut)
            run = Run.objects.create(
                id=planned.run_id,
                user_id=user.pk if user else None,
                session=chat,
                configuration=configuration,
                configuration_revision=configuration.revision or None,
                user_message=turn.question,
                assistant_message=turn.cut,
                origin=asked.source.origin,
                api_token_id=asked.source.api_token,
                replay_of_id=asked.source.replay_of,
                configuration_slug=configuration.slug,
                provider=configuration.kind,
                model=configuration.model,
                schema=planned.schema.name if planned.schema else "",
                input_tokens=planned.input_tokens,
                idempotency_key=asked.idempotency_key,
                fingerprint=fingerprint,
                worker=owner.worker,
                lease_until=now + timedelta(seconds=owner.lease),
            )
            EventBatch.objects.create(
                run=run,
                first=1,
                last=len(planned.opening),
                lines=events.to_lines(planned.opening),
            )
            # Last, as others wait for the row of a budget that is shared.
            budgets.reserve(run, planned, now)
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
        _said(asked.parameters),
        asked.context_limit,
        *([asked.continues] if asked.continues is not None else []),
        *([[str(id_) for id_ in asked.attachments]] if asked.attachments else []),
        *([[asdict(given.message) for given in asked.messages]] if asked.messages else []),
    ]
    return hashlib.sha256(events.encode(told).encode()).hexdigest()


def _said(parameters: Parameters) -> dict[str, Any]:
    always = ("temperature", "top_p", "max_tokens")  # also where they are not said
    told = asdict(parameters)
    return {name: told[name] for name in told if name in always or told[name]}


def _remember(chat: ChatSession, configuration: Configuration, asked: Asked) -> None:
    """The session's title, and what its form shows next time."""
    if not chat.title and not chat.is_renamed:
        chat.title = _title(asked.prompt)
    chat.configuration = configuration
    chat.temperature = asked.parameters.temperature
    chat.top_p = asked.parameters.top_p
    chat.max_tokens = asked.parameters.max_tokens
    chat.context_limit = asked.context_limit
    chat.schema = asked.schema_source
    chat.last_activity_at = timezone.now()
    chat.save(
        update_fields=[
            "title",
            "configuration",
            "temperature",
            "top_p",
            "max_tokens",
            "context_limit",
            "schema",
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


def request_stop(run_id: UUID, by: int | None) -> tuple[UUID | None, bool]:
    """Stores that a person (`by`, an id) wants a run stopped, for the process that owns it. Gives
    that process, None if the run has ended, and whether nobody had asked before."""
    running = Run.objects.running().filter(pk=run_id)
    unasked = running.filter(stop_requested_at=None)
    is_first = unasked.update(stop_requested_at=timezone.now(), stop_requested_by=by) == 1
    return running.values_list("worker", flat=True).first(), is_first


# ---- ending


def finish(run_id: UUID, outcome: Outcome, number: int) -> RunEvent:
    """Stores what came of a running run and gives its end event, which has this `number`.

    Called inside a transaction that holds the run's row and has seen it running: that, and that
    it is no longer running afterwards, is what makes the end the only one.
    """
    run = Run.objects.select_related(
        "session", "user", "user_message", "assistant_message", "stop_requested_by"
    ).get(pk=run_id)
    answer = _store_answer(run, outcome) if outcome.has_answer else None
    prompt_returned = outcome.status == Run.Status.STOPPED and answer is None
    returned = _settle_question(run, outcome, prompt_returned=prompt_returned)
    run.status = outcome.status
    run.assistant_message = answer
    run.ended_at = ended_at = timezone.now()
    if outcome.failure:
        run.error_code = outcome.failure.code
        run.error_message = outcome.failure.message
        run.is_recoverable = outcome.failure.recoverable
        run.retry_after = outcome.failure.retry_after
    if outcome.stop:
        _note_stop(run, outcome.stop)
    run.save(
        update_fields=[
            "status",
            "assistant_message",
            "ended_at",
            "error_code",
            "error_message",
            "is_recoverable",
            "retry_after",
            "stop_requested_at",
            "stop_requested_by",
            "stopped_after",
            "provider_closed_in",
        ]
    )
    _log_usage(run, outcome, ended_at)
    budgets.settle(run, outcome.metrics)
    if outcome.failure:
        return RunEvent(
            number,
            "error",
            events.error(
                outcome.failure,
                assistant_message_id=answer.pk if answer else None,
                text=outcome.text,
            ),
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
            receipt=run.receipt,
            structured=outcome.verdict.fields if outcome.verdict else None,
            attachments=[attachment.fields for attachment in returned],
            metrics=outcome.metrics.fields,
        ),
    )


def _note_stop(run: Run, stop: Stop) -> None:
    if run.stop_requested_at is None:  # else another process took the word, and wrote it down
        run.stop_requested_at = stop.at
        run.stop_requested_by_id = stop.by
    run.stopped_after = stop.after
    run.provider_closed_in = round(stop.closed_in, 4)


ANSWER_STATUS = {
    Run.Status.DONE: Message.Status.COMPLETE,
    Run.Status.STOPPED: Message.Status.STOPPED,
    Run.Status.ERROR: Message.Status.FAILED,
    Run.Status.INTERRUPTED: Message.Status.FAILED,
}


def _store_answer(run: Run, outcome: Outcome) -> Message | None:
    """The assistant's message, the one that was continued if there is one; None for a run without
    a session, whose text is in its events."""
    if run.session is None:
        return None
    run.session.last_activity_at = timezone.now()
    run.session.save(update_fields=["last_activity_at"])
    answer = run.assistant_message or Message(
        session=run.session, parent=run.user_message, role=Message.Role.ASSISTANT
    )
    answer.status = ANSWER_STATUS[outcome.status]
    answer.content = outcome.text
    answer.reasoning = outcome.reasoning
    answer.reasoning_seconds = outcome.reasoning_seconds
    answer.tool_calls = outcome.tool_calls
    answer.structured = outcome.verdict.fields if outcome.verdict else None
    answer.tokens = estimate(outcome.text)
    answer.save()
    return answer


def _settle_question(run: Run, outcome: Outcome, *, prompt_returned: bool) -> list[Attachment]:
    """The question of a failed run is no context; one that was stopped unanswered goes back to
    its writer with its attachments, which this gives, unless an earlier answer hangs on it."""
    question, chat = run.user_message, run.session
    if question is None or chat is None:
        return []
    if prompt_returned and not question.children.exists():
        run.user_message = None
        returned = attachments.give_back(question)
        question.delete()
        if not chat.is_renamed and not chat.messages.exists():
            chat.title = ""
            chat.save(update_fields=["title"])
        return returned
    question.status = Message.Status.FAILED if outcome.failure else Message.Status.COMPLETE
    question.save(update_fields=["status"])
    return []


def _log_usage(run: Run, outcome: Outcome, ended_at: datetime) -> None:
    metrics = outcome.metrics
    UsageLog.objects.create(
        run_id=run.pk,
        session_id=run.session_id,
        user=run.user,
        username=run.user.get_username() if run.user else "",
        origin=run.origin,
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
        input_price=outcome.prices.input,
        cached_input_price=outcome.prices.cached_input,
        output_price=outcome.prices.output,
        time_to_first_chunk=metrics.time_to_first_chunk,
        processing_time=metrics.processing_time,
        tokens_per_second=metrics.tokens_per_second,
        started_at=run.started_at,
        ended_at=ended_at,
    )
