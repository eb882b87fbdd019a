"""From what a person asked to what the engine sends: the plan of a run and its first events."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.conf import settings

from conversations import attachments, bodies, context, events
from conversations.events import RunEvent
from conversations.models import ChatSession, Message, Origin
from providers import schemas
from providers.adapters.base import (
    JSON_INSTRUCTIONS,
    Adapter,
    ChatMessage,
    Feature,
    Parameters,
    ProviderRequest,
    Schema,
    Target,
)
from providers.client import Limits
from providers.errors import ProviderError
from providers.models import Configuration
from providers.pricing import Prices
from providers.tokens import estimate

CONTINUE = (
    "Your answer was cut off. Continue it from exactly where it ends, in the middle of a sentence "
    "or a word if need be. Repeat nothing of it and add no introduction."
)
T = TypeVar("T")
# Parameters that few requests have, as they are told of them.
_RARE = (
    "tool_choice",
    "parallel_tool_calls",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)


@dataclass(frozen=True, slots=True)
class Source:
    """What a run is made for, and by which token or from which earlier run."""

    origin: Origin = Origin.CHAT
    api_token: int | None = None  # an id
    replay_of: UUID | None = None


CHAT = Source()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for, checked. None stands for the configuration's default."""

    prompt: str
    parameters: Parameters = field(default_factory=Parameters)
    context_limit: int | None = None
    idempotency_key: str = ""
    continues: int | None = None  # the id of the answer to go on with
    schema_source: str = ""  # as it was named or typed; parameters.schema is what it stands for
    attachments: tuple[UUID, ...] = ()  # that are sent with a new message
    # The whole conversation, from a caller who keeps it; then `prompt` is its last question.
    messages: tuple[context.Given, ...] = ()
    body: dict[str, Any] | None = None  # to be sent as it is, in place of one that is made of these
    source: Source = CHAT


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an answer already has when a run goes on with it; for a new answer, nothing."""

    text: str = ""
    reasoning: str = ""
    reasoning_seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Estimated, of text and reasoning."""
        return estimate(self.text) + estimate(self.reasoning)


@dataclass(frozen=True, slots=True)
class _Sending:
    """Which messages a request has, and what is told of them."""

    messages: Sequence[ChatMessage]
    system_instructions: str
    context_messages: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    pictures: dict[str, Any]  # of the prompt
    limit: int | None  # of earlier messages
    input_tokens: int


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
    earlier: Earlier = Earlier()
    schema: Schema | None = None  # that the answer is held against
    max_tokens: int | None = None  # of the answer, as the provider is told; None: it decides


def plan(
    configuration: Configuration,
    asked: Asked,
    chat: ChatSession | None,
    question: Message | None,
    branch: list[Message],
    now: datetime,
    cut: Message | None = None,
) -> Plan:
    """The plan of a new run for `question`, which follows the messages of `branch`; one that goes
    on with the answer `cut` if there is one."""
    earlier = Earlier(cut.content, cut.reasoning, cut.reasoning_seconds) if cut else Earlier()
    parameters = _with_defaults(asked.parameters, configuration.default_parameters)
    message_id = question.pk if question else None
    if asked.messages:
        sending = _whole(configuration, asked, parameters)
    else:
        sending = _from_branch(configuration, asked, parameters, chat, question, branch, earlier)
    sent = _sendable(configuration, parameters)
    target, shown, request = _request(configuration, sending.messages, sent, asked.body)
    input_tokens = sending.input_tokens
    if asked.body is not None:
        # It may have been edited, and what is counted above is what it was.
        input_tokens = max(input_tokens, bodies.text_tokens(asked.body))
    run_id = uuid4()
    metadata = events.metadata(
        run_id=run_id,
        user_message_id=message_id,
        user_prompt=asked.prompt,
        input_tokens=input_tokens,
        context_size=len(sending.context_messages),
        continues={"message_id": cut.pk, "tokens": estimate(earlier.text)} if cut else None,
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
                "temperature": sent.temperature,
                "max_tokens": sent.max_tokens,
                "top_p": sent.top_p,
                "context_limit": sending.limit,
                "actual_context_size": len(sending.context_messages),
                **_also(sent, parameters.schema),
            },
            "system_instructions": sending.system_instructions,
            "context_messages": sending.context_messages,
            "left_out": sending.left_out,
            "current_prompt": asked.prompt,
            **sending.pictures,
            "full_request_body": shown.body if shown else {},
        }
    )
    return Plan(
        run_id=run_id,
        prompt=asked.prompt,
        adapter_class=configuration.adapter_class,
        target=target,
        request=request,
        limits=_limits(configuration, earlier),
        total_limit=configuration.total_limit,
        prices=configuration.prices,
        input_tokens=input_tokens,
        opening=_numbered(
            ("metadata", metadata), ("request_data", request_data), *_shown_again(earlier)
        ),
        earlier=earlier,
        schema=parameters.schema,
        max_tokens=_max_tokens(sent, shown),
    )


def max_tokens(asked: Asked, configuration: Configuration) -> int | None:
    """How long the provider would be told that an answer may be; None where it decides."""
    parameters = _with_defaults(asked.parameters, configuration.default_parameters)
    sent = _sendable(configuration, parameters)
    _, shown, _ = _request(configuration, [ChatMessage("user", asked.prompt or "?")], sent, None)
    return _max_tokens(sent, shown)


def _max_tokens(sent: Parameters, shown: ProviderRequest | None) -> int | None:
    """By what the body says in the end: kinds have defaults, and configurations may add to it."""
    told = bodies.answer_tokens(shown.body) if shown else None
    return told or sent.max_tokens


def _from_branch(
    configuration: Configuration,
    asked: Asked,
    parameters: Parameters,
    chat: ChatSession | None,
    question: Message | None,
    branch: list[Message],
    earlier: Earlier,
) -> _Sending:
    """What is sent of a conversation that is kept here."""
    limit = context_limit(asked, configuration)
    pictures = attachments.of([*branch, question] if question else branch)
    selected = context.build(
        branch,
        prompt=asked.prompt,
        closing=_closing(configuration.adapter_class, earlier),
        system_instructions=_instructions(
            configuration, chat.system_instructions if chat else "", parameters
        ),
        limit=limit,
        window=configuration.context_window,
        max_tokens=parameters.max_tokens or configuration.adapter_class.answer_tokens,
        pictures=pictures,
        prompt_pictures=pictures.get(question.pk if question else 0, ()),
        can_see=configuration.supports(Feature.VISION),
    )
    return _Sending(
        messages=selected.messages(attachments.images(selected.seen)),
        system_instructions=selected.system_instructions,
        context_messages=[_context_message(message, selected) for message in selected.included],
        left_out=[asdict(left_out) for left_out in selected.left_out],
        pictures=_attachments(selected.prompt_pictures, selected.seen),
        limit=limit,
        input_tokens=selected.input_tokens,
    )


def _whole(configuration: Configuration, asked: Asked, parameters: Parameters) -> _Sending:
    """A conversation that its caller keeps: nothing of it is left out."""
    has_own = any(given.message.role == "system" for given in asked.messages)
    before = _asking_for_json(configuration, parameters)
    if not has_own:
        before = _instructions(configuration, "", parameters)
    sent, system_instructions, input_tokens = context.gather(asked.messages, before=before)
    said = [given for given in sent if given.message.role != "system"]
    has_prompt = bool(said) and said[-1].message.role == "user"
    earlier = said[:-1] if has_prompt else said
    return _Sending(
        messages=[given.message for given in sent],
        system_instructions=system_instructions,
        context_messages=[_given_message(given) for given in earlier],
        left_out=[],
        pictures=_given_pictures(said[-1]) if has_prompt else {},
        limit=None,
        input_tokens=input_tokens,
    )


def _sendable(configuration: Configuration, parameters: Parameters) -> Parameters:
    """What of the parameters the model takes; the rest it might answer with an error."""
    refused: dict[str, Any] = dict.fromkeys(configuration.refused_parameters)
    kept = replace(parameters, **refused)
    if not configuration.supports(Feature.JSON_SCHEMA):
        kept = replace(kept, schema=None, is_json=False)
    if not configuration.supports(Feature.REASONING):
        kept = replace(kept, reasoning_effort=None, reasoning_tokens=None)
    return kept


def _also(parameters: Parameters, schema: Schema | None) -> dict[str, Any]:
    """What few requests have. `schema` is what the answer is held against."""
    also: dict[str, Any] = {}
    if schema:
        also["schema"] = schema.name
    if parameters.reasoning_effort is not None:
        also["reasoning_effort"] = parameters.reasoning_effort
    if parameters.reasoning_tokens is not None:
        also["reasoning_tokens"] = parameters.reasoning_tokens
    if parameters.tools:
        also["tools"] = [tool["function"]["name"] for tool in parameters.tools]
    if parameters.is_json:
        also["response_format"] = "json_object"
    for name in _RARE:
        if (value := getattr(parameters, name)) not in (None, ()):
            also[name] = value
    return also


def _instructions(configuration: Configuration, own: str, parameters: Parameters) -> str:
    """The system instructions: the session's own or the configuration's, and what asks for JSON
    where the provider has no way of its own."""
    asked = _asking_for_json(configuration, parameters)
    return "\n\n".join(filter(None, [own or configuration.system_instructions, asked]))


def _asking_for_json(configuration: Configuration, parameters: Parameters) -> str:
    if configuration.supports(Feature.JSON_SCHEMA):
        return ""
    if parameters.schema:
        return parameters.schema.instructions
    return JSON_INSTRUCTIONS if parameters.is_json else ""


def _closing(adapter_class: type[Adapter], earlier: Earlier) -> list[ChatMessage]:
    """What is sent after the prompt to have an answer continued."""
    if not earlier.text:
        return []
    cut = ChatMessage("assistant", earlier.text)
    # Some take an answer that comes last as their own beginning. The others need to be told.
    return [cut] if adapter_class.continues_answers else [cut, ChatMessage("user", CONTINUE)]


def _limits(configuration: Configuration, earlier: Earlier) -> Limits:
    """What there is of an answer counts: it cannot be continued without end."""
    limits = configuration.limits
    room = limits.answer_bytes - len((earlier.text + earlier.reasoning).encode())
    return replace(limits, answer_bytes=max(room, 0))


def _shown_again(earlier: Earlier) -> Iterator[tuple[str, str]]:
    if earlier.reasoning:
        reasoning = earlier.reasoning
        yield "reasoning", events.earlier("reasoning", reasoning, estimate(reasoning))
    if earlier.text:
        yield "chunk", events.earlier("chunk", earlier.text, estimate(earlier.text))


def _numbered(*opening: tuple[str, str]) -> list[RunEvent]:
    return [RunEvent(number, type, data) for number, (type, data) in enumerate(opening, 1)]


def _request(
    configuration: Configuration,
    messages: Sequence[ChatMessage],
    parameters: Parameters,
    body: dict[str, Any] | None,
) -> tuple[Target, ProviderRequest | None, ProviderRequest | ProviderError]:
    """Where the request goes, the request as far as it can be shown, and what can be sent."""
    unreadable_key: ProviderError | None = None
    try:
        target = configuration.target()
    except ProviderError as error:
        unreadable_key = error
        target = configuration.target_without_key()
    try:
        request = configuration.adapter_class(target).request(messages, parameters)
    except ProviderError as error:
        return target, None, unreadable_key or error
    if body is not None:
        request = replace(request, body=body)
    return target, request, unreadable_key or request


def context_limit(asked: Asked, configuration: Configuration) -> int:
    """How many earlier messages a request includes at most."""
    if asked.context_limit is not None:
        return asked.context_limit
    if configuration.context_limit is not None:
        return configuration.context_limit
    default: int = settings.DEFAULT_CONTEXT_LIMIT
    return default


def _context_message(message: context.ContextMessage, selected: context.Context) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "tokens": message.tokens,
        "created_at": message.created_at.isoformat(),
        **_attachments(selected.pictures.get(message.id, ()), selected.seen),
    }


def _given_message(given: context.Given) -> dict[str, Any]:
    """A message that is not kept here, so it has neither an id nor a time."""
    message = given.message
    calls = [asdict(call) for call in message.tool_calls]
    return {
        "id": None,
        "role": message.role,
        "content": message.content,
        "tokens": given.tokens,
        "created_at": None,
        **({"tool_calls": calls} if calls else {}),
        **({"tool_call_id": message.tool_call_id} if message.tool_call_id else {}),
        **_given_pictures(given),
    }


def _given_pictures(given: context.Given) -> dict[str, list[dict[str, Any]]]:
    return _attachments(given.pictures, {picture.id for picture in given.pictures})


def _attachments(
    pictures: Sequence[context.Picture], seen: Collection[UUID]
) -> dict[str, list[dict[str, Any]]]:
    """The images of a message, where it has any. One that is not `sent` is named in its text."""
    told = [
        {
            "id": str(picture.id),
            "name": picture.name,
            "width": picture.width,
            "height": picture.height,
            "tokens": picture.tokens,  # estimated
            "sent": picture.id in seen,
        }
        for picture in pictures
    ]
    return {"attachments": told} if told else {}


def _with_defaults(asked: Parameters, default: Parameters) -> Parameters:
    schema = _first(asked.schema, default.schema)
    return replace(
        asked,
        temperature=_first(asked.temperature, default.temperature),
        top_p=_first(asked.top_p, default.top_p),
        max_tokens=_first(asked.max_tokens, default.max_tokens),
        reasoning_effort=_first(asked.reasoning_effort, default.reasoning_effort),
        reasoning_tokens=_first(asked.reasoning_tokens, default.reasoning_tokens),
        schema=None if schema == schemas.NONE else schema,
    )


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)
