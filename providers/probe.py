"""Asks a provider whether a configuration works, and which models there are (contract P6).

An endpoint of the kind `custom` has no list of models: it is asked for a short answer, as a chat
would ask it, and what was read is shown.

`test` and `models` run on any event loop; `run` calls one of them from plain code, such as an
admin view or a command, on a loop of its own, and tells of an answer that was asked for
(`signals.answer_tried`): it costs like any other.

What is said about a failure is a code and a sentence of ours. A provider's own words are left
out: whoever may type an address must not be able to read with it what others cannot reach (A15).
Of a custom endpoint only what came as an answer is shown, never the body of a refusal.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from providers import client, signals
from providers.adapters.base import Adapter, ChatMessage, ModelInfo, ProviderRequest
from providers.adapters.custom import BEGINNING_BYTES, Custom
from providers.client import Limits
from providers.errors import (
    InvalidRequest,
    ModelNotFound,
    ProviderError,
    ProviderFailure,
    ProviderTimeout,
)
from providers.events import Event, Finish, ReasoningDelta, TextDelta, Usage
from providers.failure import masked
from providers.models import Configuration
from providers.tokens import estimate, estimate_messages

T = TypeVar("T")

ANSWER_SECONDS: Final = 15.0  # someone is waiting at the page
DETAILS_SECONDS: Final = 10.0  # for all models together
DETAILS_MAX: Final = 100
PAGES_MAX: Final = 10  # of the list
DETAILS_AT_A_TIME: Final = 4
TRIAL: Final = "Say hello in one short sentence."
TRIAL_SECONDS: Final = 30.0
TRIAL_BYTES: Final = 65_536  # enough to see that it works
SHOWN_LENGTH: Final = 300  # characters
SHOWN_LINES: Final = 5

ADVICE: Final = {
    "PROVIDER_OFFLINE": "No connection to the provider. Check the base URL and that it is running.",
    "API_KEY_INVALID": "The provider refuses the API key. Enter a valid one.",
    "RATE_LIMIT_EXCEEDED": "The provider answers, but takes no more requests now. Wait a while.",
    "MODEL_NOT_FOUND": "The provider does not know this model. Load models shows those there are.",
    "TIMEOUT": "The provider did not answer in time.",
    "QUOTA_EXCEEDED": "The account at the provider has no credit left.",
    "INVALID_REQUEST": "The provider refuses the request, or is not at this address. "
    "Check the base URL, the kind and the extra headers.",
    "PROVIDER_OVERLOADED": "The provider answers, but is overloaded. Try again later.",
    "STREAM_INTERRUPTED": "The provider's answer broke off. Try again.",
}
OTHER_ADVICE: Final = "The provider answered with an error."


@dataclass(frozen=True, slots=True)
class Trial:
    """A request for an answer that was sent to test a configuration, and what came of it.

    Times are in seconds from sending. `code` is "" where there was no error.
    """

    configuration: Configuration
    usage: Usage
    is_estimated: bool  # whether any count in `usage` is ours
    finish_reason: str
    code: str
    sent_at: datetime
    first_output_after: float | None
    ended_after: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a test found. `code` is "" if all is well; with `ok` it is a warning.

    `details` are lines about what was read: text from outside, to be escaped.
    """

    ok: bool
    code: str
    message: str
    seconds: float
    details: tuple[str, ...] = ()
    trial: Trial | None = field(default=None, repr=False, compare=False)


def advice(error: ProviderError) -> str:
    """What to do about it, without a word of the provider's."""
    return ADVICE.get(error.code, OTHER_ADVICE)


async def test(configuration: Configuration) -> Result:
    """Whether the provider answers, takes the key and has the model.

    The list of models is asked for: it costs nothing, and needs the key where there is one.
    """
    begun = asyncio.get_running_loop().time()
    try:
        adapter = _adapter(configuration)
        if isinstance(adapter, Custom):
            return await _tried(configuration, adapter)
        found = await _listed(adapter, _limits(configuration))
        if proof := adapter.key_request():
            await client.fetch(adapter, proof, _limits(configuration))
    except ProviderError as error:
        code, message = error.code, advice(error)
    else:
        code, message = "", "The connection works."
        known = {model.id for model in found}
        # Ollama's names mean their latest version where they name none.
        if not known & {configuration.model, f"{configuration.model}:latest"}:
            code = ModelNotFound.code
            message = (
                f"The connection works, but the provider's list has no model {configuration.model}."
            )
    seconds = asyncio.get_running_loop().time() - begun
    return Result(not code or code == ModelNotFound.code, code, message, seconds)


async def _tried(configuration: Configuration, adapter: Custom) -> Result:
    """What a custom endpoint answers to a short question. Raises InvalidRequest where it cannot
    be asked."""
    messages = [ChatMessage("user", TRIAL)]
    if configuration.system_instructions:
        messages.insert(0, ChatMessage("system", configuration.system_instructions))
    request = adapter.request(messages, configuration.default_parameters)
    limits = replace(_limits(configuration), answer_bytes=TRIAL_BYTES)
    sent_at, begun = datetime.now(UTC), asyncio.get_running_loop().time()
    events: list[Event] = []
    first_output_after: float | None = None
    code, message = "", "The endpoint answers."
    try:
        async with (
            asyncio.timeout(TRIAL_SECONDS),
            aclosing(client.stream(adapter, request, limits)) as reads,
        ):
            async for read in reads:
                events += read
                if events and first_output_after is None:
                    first_output_after = asyncio.get_running_loop().time() - begun
    except TimeoutError:
        code = ProviderTimeout.code
        message = f"The answer was not complete after {TRIAL_SECONDS:g} s."
    except ProviderError as error:
        code, message = error.code, advice(error)
    has_text = any(isinstance(event, TextDelta) for event in events)
    if not has_text and adapter.beginning:
        code = code or ProviderFailure.code
        message = "The endpoint answered, but no text was found. Correct the format and the paths."
    seconds = asyncio.get_running_loop().time() - begun
    shown = _Shown(adapter)
    details = [*shown.read(events)] if events else []
    if not has_text:
        details += shown.first_lines()
    usage, is_estimated = _used(messages, events, is_answered=not code or bool(adapter.beginning))
    finish = next((event.reason for event in events if isinstance(event, Finish)), None)
    trial = Trial(
        configuration=configuration,
        usage=usage,
        is_estimated=is_estimated,
        finish_reason=finish or "",
        code=code,
        sent_at=sent_at,
        first_output_after=first_output_after,
        ended_after=seconds,
    )
    return Result(not code, code, message, seconds, tuple(details), trial)


def _used(
    messages: list[ChatMessage], events: list[Event], *, is_answered: bool
) -> tuple[Usage, bool]:
    """The endpoint's counts, completed by estimates; and whether any of it is estimated."""
    given = next((event for event in reversed(events) if isinstance(event, Usage)), Usage())
    if None not in (given.prompt_tokens, given.completion_tokens) or not is_answered:
        return given, False  # of a refusal nothing is known, and nothing is guessed
    texts = (event.text for event in events if isinstance(event, TextDelta | ReasoningDelta))
    prompt, completion = given.prompt_tokens, given.completion_tokens
    if prompt is None:
        prompt = estimate_messages(message.content for message in messages)
    if completion is None:
        completion = estimate("".join(texts))
    return replace(given, prompt_tokens=prompt, completion_tokens=completion), True


class _Shown:
    """Lines about what an endpoint answered, without its key."""

    def __init__(self, adapter: Custom) -> None:
        self._beginning = bytes(adapter.beginning)
        self._secrets = adapter.source().secrets

    def read(self, events: list[Event]) -> Iterator[str]:
        """What the events came to, a line for each kind of thing."""
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        usage = next((event for event in reversed(events) if isinstance(event, Usage)), Usage())
        finish = next((event for event in events if isinstance(event, Finish)), None)
        yield f"Text: {self._short(text) or 'none'}"
        if reasoning:
            yield f"Thinking: {self._short(reasoning)}"
        if finish is None:
            yield "Finish: none"
        else:
            word = self._short(finish.provider_reason or "nothing")
            yield f"Finish: {finish.reason or 'no known reason'}, the endpoint said {word}"
        counts = (usage.prompt_tokens, usage.completion_tokens)
        told = ["not told" if count is None else str(count) for count in counts]
        yield f"Tokens: {told[0]} in, {told[1]} out"

    def first_lines(self) -> Iterator[str]:
        """How the body began."""
        lines = self._beginning.decode("utf-8", "replace").splitlines()
        if len(self._beginning) == BEGINNING_BYTES and len(lines) > 1:
            del lines[-1]  # it may end in the middle of a key
        for number, line in enumerate([line for line in lines if line.strip()][:SHOWN_LINES], 1):
            yield f"Line {number}: {self._short(line)}"

    def _short(self, text: str) -> str:
        # Masked before it is cut, or half a key would stay.
        text = masked(text, self._secrets)
        text = "".join(c if c.isprintable() else " " for c in text[: SHOWN_LENGTH + 1])
        return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


async def models(configuration: Configuration) -> list[ModelInfo]:
    """The provider's models, with window and prices where it tells them. Raises ProviderError."""
    adapter, limits = _adapter(configuration), _limits(configuration)
    found = await _listed(adapter, limits)
    if not found or adapter.model_request(found[0].id) is None:
        return found
    # The list tells only names: each model is asked about, as far as there is time for it.
    gate = asyncio.Semaphore(DETAILS_AT_A_TIME)
    questions = {
        asyncio.create_task(_described(adapter, model, limits, gate)): position
        for position, model in enumerate(found[:DETAILS_MAX])
    }
    try:
        done, _ = await asyncio.wait(questions, timeout=DETAILS_SECONDS)
    finally:
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
    for question in done:
        found[questions[question]] = question.result()
    return found


def run(question: Coroutine[Any, Any, T], user: Any = None) -> T:
    """The answer to `test` or `models`, for code outside of any event loop. `user` is who asks."""

    async def asked() -> T:
        try:
            return await question
        finally:
            await client.aclose()  # connections belong to this loop, which ends now

    answer = asyncio.run(asked())
    if isinstance(answer, Result) and answer.trial is not None:
        signals.answer_tried.send(sender=Configuration, trial=answer.trial, user=user)
    return answer


def _adapter(configuration: Configuration) -> Adapter:
    try:
        adapter_class = configuration.adapter_class
    except LookupError:
        raise InvalidRequest(f"{configuration.name} is of no known kind.") from None
    return adapter_class(configuration.target())


def _limits(configuration: Configuration) -> Limits:
    limits = configuration.limits
    return replace(
        limits,
        connect=min(limits.connect, ANSWER_SECONDS),
        first_chunk=min(limits.first_chunk, ANSWER_SECONDS),
    )


async def _listed(adapter: Adapter, limits: Limits) -> list[ModelInfo]:
    found: dict[str, ModelInfo] = {}
    request: ProviderRequest | None = adapter.models_request()
    for _ in range(PAGES_MAX):
        if request is None:
            break
        answer = await client.fetch(adapter, request, limits)
        found |= {model.id: model for model in adapter.models(answer)}
        request = adapter.next_models_request(answer)
    return list(found.values())


async def _described(
    adapter: Adapter, model: ModelInfo, limits: Limits, gate: asyncio.Semaphore
) -> ModelInfo:
    """`model` with what the provider tells about it; unchanged if it tells nothing."""
    async with gate:
        request = adapter.model_request(model.id)
        if request is None:
            return model
        try:
            told = adapter.model(model.id, await client.fetch(adapter, request, limits))
        except ProviderError:
            return model  # one that is broken or was just removed hides none of the others
    return replace(
        model,
        context_window=told.context_window or model.context_window,
        prices=told.prices or model.prices,
    )
