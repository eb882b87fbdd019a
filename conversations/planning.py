"""From what a person asked to what the engine sends: the plan of a run and its first events."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.conf import settings

from conversations import context, events
from conversations.events import RunEvent
from conversations.models import ChatSession, Message
from providers.adapters.base import Adapter, Parameters, ProviderRequest, Target
from providers.client import Limits
from providers.errors import ProviderError
from providers.models import Configuration
from providers.pricing import Prices

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for, checked. None stands for the configuration's default."""

    prompt: str
    parameters: Parameters = field(default_factory=Parameters)
    context_limit: int | None = None
    idempotency_key: str = ""


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


def plan(
    configuration: Configuration,
    asked: Asked,
    chat: ChatSession | None,
    question: Message | None,
    branch: list[Message],
    now: datetime,
) -> Plan:
    """The plan of a new run for `question`, which follows the messages of `branch`."""
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
    message_id = question.pk if question else None
    metadata = events.metadata(
        run_id=run_id,
        user_message_id=message_id,
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
                "message_id": message_id,
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
    return Plan(
        run_id=run_id,
        prompt=asked.prompt,
        adapter_class=configuration.adapter_class,
        target=target,
        request=request,
        limits=configuration.limits,
        total_limit=configuration.total_limit,
        prices=configuration.prices,
        input_tokens=selected.input_tokens,
        opening=[
            RunEvent(1, "metadata", metadata),
            RunEvent(2, "request_data", request_data),
        ],
    )


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
