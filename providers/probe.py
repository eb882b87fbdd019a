"""Asks a provider whether a configuration works, and which models there are (contract P6).

`test` and `models` run on any event loop; `run` calls one of them from plain code, such as an
admin view or a command, on a loop of its own.

What is said about a failure is a code and a sentence of ours. A provider's own words are left
out: whoever may type an address must not be able to read with it what others cannot reach (A15).
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from providers import client
from providers.adapters.base import Adapter, ModelInfo
from providers.client import Limits
from providers.errors import InvalidRequest, ModelNotFound, ProviderError
from providers.models import Configuration

T = TypeVar("T")

ANSWER_SECONDS: Final = 15.0  # someone is waiting at the page
DETAILS_SECONDS: Final = 10.0  # for all models together
DETAILS_MAX: Final = 100
DETAILS_AT_A_TIME: Final = 4

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
class Result:
    """What a test found. `code` is "" if all is well; with `ok` it is a warning."""

    ok: bool
    code: str
    message: str
    seconds: float


def advice(error: ProviderError) -> str:
    """What to do about it, without a word of the provider's."""
    return ADVICE.get(error.code, OTHER_ADVICE)


async def test(configuration: Configuration) -> Result:
    """Whether the provider answers, takes the key and has the model.

    The list of models is asked for: it costs nothing, and needs the key where there is one.
    """
    begun = asyncio.get_running_loop().time()
    try:
        found = await _listed(_adapter(configuration), _limits(configuration))
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


def run(question: Coroutine[Any, Any, T]) -> T:
    """The answer to `test` or `models`, for code outside of any event loop."""

    async def asked() -> T:
        try:
            return await question
        finally:
            await client.aclose()  # connections belong to this loop, which ends now

    return asyncio.run(asked())


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
    return adapter.models(await client.fetch(adapter, adapter.models_request(), limits))


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
