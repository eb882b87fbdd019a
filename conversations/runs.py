"""The verbs of a run: start, retry, finish, recover. Synchronous, each in one transaction.

`start` and `retry` store what was asked and give the engine a Plan; `finish` is called by the
journal's writer, inside its transaction, with what came of it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import branches, context, events
from conversations.errors import (
    Failure,
    Interrupted,
    KeyReused,
    RunInProgress,
    TooManyRuns,
)
from conversations.events import RunEvent
from conversations.journal import stored_events
from conversations.models import (
    ChatSession,
    EventBatch,
    Message,
    Run,
    UsageLog,
)
from providers.adapters.base import Adapter, Parameters, ProviderRequest, Target
from providers.client import Limits
from providers.errors import ProviderError
from providers.events import Usage
from providers.models import Configuration
from providers.pricing import CostSource, Prices, cost_usd
from providers.tokens import estimate

T = TypeVar("T")

TITLE_FROM_PROMPT = 60  # characters


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for, checked. None stands for the configuration's default."""

    prompt: str
    parameters: Parameters = field(default_factory=Parameters)
    context_limit: int | None = None
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that will drive a run, and for how many seconds its word holds."""

    worker: UUID
    lease: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the engine needs to drive a run, so that it reads nothing back."""

    run_id: UUID
    prompt: str
    adapter_class: type[Adapter]
    target: Target
    request: ProviderRequest | ProviderError  # or why there is none that could be sent
    limits: Limits
    total_limit: float  # s
    prices: Prices
    input_tokens: int
    opening: list[RunEvent]


@dataclass(frozen=True, slots=True)
class Started:
    """A run, and its plan if it is new: a repeated idempotency key gives the run alone."""

    run: Run
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run used. Counts are None where nothing is known, durations are in seconds."""

    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    cost_usd: Decimal | None
    cost_source: CostSource
    estimated: bool
    processing_time: float
    time_to_first_chunk: float | None
    tokens_per_second: float | None

    @property
    def fields(self) -> dict[str, Any]:
        """The `metrics` of a `done` event (S7)."""
        counts = (self.prompt_tokens, self.completion_tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": None if None in counts else sum(filter(None, counts)),
            "reasoning_tokens": self.reasoning_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": None if self.cost_usd is None else float(self.cost_usd),
            "processing_time": _rounded(self.processing_time),
            "time_to_first_chunk": _rounded(self.time_to_first_chunk),
            "tokens_per_second": _rounded(self.tokens_per_second),
            "estimated": self.estimated,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what is to be kept of it."""

    status: Run.Status
    text: str
    reasoning: str
    reasoning_seconds: float | None
    tool_calls: list[dict[str, str]]
    finish_reason: str | None
    provider_finish_reason: str | None
    failure: Failure | None
    metrics: Metrics

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer to keep: text, a tool call, or a proper end without any."""
        return bool(self.text or self.tool_calls) or self.status == Run.Status.DONE


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
            if repeated := _repeated(user, asked, fingerprint):
                return Started(repeated, None)
            if user is not None:
                _check_limits(user, chat)
            question, branch = store_question()
            run, plan = _create(
                user, chat, configuration, asked, owner, fingerprint, question, branch
            )
            return Started(run, plan)
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


def _create(
    user: AbstractBaseUser | None,
    chat: ChatSession | None,
    configuration: Configuration,
    asked: Asked,
    owner: Owner,
    fingerprint: str,
    question: Message | None,
    branch: list[Message],
) -> tuple[Run, Plan]:
    parameters = _with_defaults(asked.parameters, configuration.default_parameters)
    limit = context_limit(asked, configuration)
    selected = context.build(
        branch,
        prompt=asked.prompt,
        system_instructions=(chat.system_instructions if chat else "")
        or configuration.system_instructions,
        limit=limit,
        window=configuration.context_window,
        max_tokens=parameters.max_tokens,
    )
    target, shown, request = _request(configuration, selected, parameters)
    run_id = uuid4()
    now = timezone.now()
    metadata = events.metadata(
        run_id=run_id,
        user_message_id=question.pk if question else None,
        user_prompt=asked.prompt,
        input_tokens=selected.input_tokens,
        context_size=len(selected.included),
    )
    request_data = events.request_data(
        {
            "metadata": {
                "provider": configuration.kind,
                "configuration": configuration.slug,
                "model": configuration.model,
                "endpoint": shown.url if shown else configuration.base_url,
                "timestamp": now.isoformat(),
                "run_id": str(run_id),
                "session_id": str(chat.pk) if chat else None,
                "message_id": question.pk if question else None,
            },
            "parameters": {
                "temperature": parameters.temperature,
                "max_tokens": parameters.max_tokens,
                "top_p": parameters.top_p,
                "context_limit": limit,
                "actual_context_size": len(selected.included),
            },
            "system_instructions": selected.system_instructions,
            "context_messages": [_context_message(message) for message in selected.included],
            "left_out": [asdict(left_out) for left_out in selected.left_out],
            "current_prompt": asked.prompt,
            "full_request_body": shown.body if shown else {},
        }
    )
    opening = [RunEvent(1, "metadata", metadata), RunEvent(2, "request_data", request_data)]
    run = Run.objects.create(
        id=run_id,
        user_id=user.pk if user else None,
        session=chat,
        configuration=configuration,
        user_message=question,
        configuration_slug=configuration.slug,
        provider=configuration.kind,
        model=configuration.model,
        input_tokens=selected.input_tokens,
        idempotency_key=asked.idempotency_key,
        fingerprint=fingerprint,
        worker=owner.worker,
        lease_until=now + timedelta(seconds=owner.lease),
    )
    EventBatch.objects.create(run=run, first=1, last=2, lines=events.to_lines(opening))
    plan = Plan(
        run_id=run_id,
        prompt=asked.prompt,
        adapter_class=configuration.adapter_class,
        target=target,
        request=request,
        limits=configuration.limits,
        total_limit=configuration.total_limit,
        prices=configuration.prices,
        input_tokens=selected.input_tokens,
        opening=opening,
    )
    return run, plan


def _request(
    configuration: Configuration, selected: context.Context, parameters: Parameters
) -> tuple[Target, ProviderRequest | None, ProviderRequest | ProviderError]:
    """Where the request goes, the request as far as it can be shown, and what can be sent."""
    unreadable_key: ProviderError | None = None
    try:
        target = configuration.target()
    except ProviderError as error:
        unreadable_key = error
        target = configuration.target_without_key()
    try:
        request = configuration.adapter_class(target).request(selected.messages(), parameters)
    except ProviderError as error:
        return target, None, unreadable_key or error
    return target, request, unreadable_key or request


def context_limit(asked: Asked, configuration: Configuration) -> int:
    """How many earlier messages a request includes at most."""
    if asked.context_limit is not None:
        return asked.context_limit
    if configuration.context_limit is not None:
        return configuration.context_limit
    default: int = settings.DEFAULT_CONTEXT_LIMIT
    return default


def _context_message(message: context.ContextMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "tokens": message.tokens,
        "created_at": message.created_at.isoformat(),
    }


def _with_defaults(asked: Parameters, default: Parameters) -> Parameters:
    return Parameters(
        temperature=_first(asked.temperature, default.temperature),
        top_p=_first(asked.top_p, default.top_p),
        max_tokens=_first(asked.max_tokens, default.max_tokens),
    )


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


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
            cost_source=outcome.metrics.cost_source,
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


# ---- recovering


def recover(except_worker: UUID) -> list[UUID]:
    """Ends the runs whose worker is gone, as INTERRUPTED and with all the text that was stored.

    Only an expired lease makes a run lost. `except_worker` names the caller, whose own runs are
    alive whatever their lease says. Gives the ids of the runs that it ended.
    """
    expired = (
        Run.objects.running()
        .filter(lease_until__lt=timezone.now())
        .exclude(worker=except_worker)
        .values_list("pk", flat=True)
    )
    return [run_id for run_id in expired if _recover(run_id)]


def _recover(run_id: UUID) -> bool:
    with transaction.atomic():
        # Looked at again under the lock: another process may have been faster, or the worker
        # may have come back and renewed its lease.
        run = (
            Run.objects.select_for_update(of=("self",))
            .select_related("configuration")
            .running()
            .filter(pk=run_id, lease_until__lt=timezone.now())
            .first()
        )
        if run is None:
            return False
        stored = stored_events(run_id)
        number = stored[-1].number + 1
        end = finish(run_id, _interrupted(run, stored), number)
        EventBatch.objects.create(run=run, first=number, last=number, lines=end.data)
    return True


def _interrupted(run: Run, stored: list[RunEvent]) -> Outcome:
    """What is left of a run whose worker is gone: its stored events tell."""
    text = events.joined_text(stored, "chunk")
    reasoning = events.joined_text(stored, "reasoning")
    prices = run.configuration.prices if run.configuration else Prices()
    usage = Usage(
        prompt_tokens=run.input_tokens, completion_tokens=estimate(text) + estimate(reasoning)
    )
    cost, source = cost_usd(usage, prices, is_estimated=True)
    return Outcome(
        status=Run.Status.INTERRUPTED,
        text=text,
        reasoning=reasoning,
        reasoning_seconds=None,
        tool_calls=joined_tool_calls(event.fields for event in stored if event.type == "tool_call"),
        finish_reason=None,
        provider_finish_reason=None,
        failure=Failure.of(Interrupted()),
        metrics=Metrics(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=None,
            cached_tokens=None,
            cost_usd=cost,
            cost_source=source,
            estimated=True,
            processing_time=(timezone.now() - run.started_at).total_seconds(),
            time_to_first_chunk=None,
            tokens_per_second=None,
        ),
    )


def joined_tool_calls(pieces: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Whole tool calls from the fields of `tool_call` events, in the order of their index."""
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        call = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
        for key in ("id", "name", "arguments"):
            call[key] += piece[key]
    return [calls[index] for index in sorted(calls)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
