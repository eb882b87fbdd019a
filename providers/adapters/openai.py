"""Kind `openai`: Chat Completions, or the Responses API where the configuration says so, or its
base URL by ending in /responses.

Source: openai.md; recordings `openai-*`.
"""

from collections.abc import Iterator, Sequence

from providers.adapters.base import (
    ChatMessage,
    JSONObject,
    Parameters,
    ProviderRequest,
    Target,
)
from providers.adapters.openai_compatible import OpenAICompatible
from providers.adapters.openai_responses import Responses
from providers.events import Event


class OpenAI(OpenAICompatible):
    """OpenAI itself."""

    kind = "openai"
    label = "OpenAI"
    default_base_url = "https://api.openai.com/v1"
    needs_key = True
    # Reasoning models refuse the older `max_tokens`.
    max_tokens_field = "max_completion_tokens"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        address = self.base_url.partition("?")[0].rstrip("/")
        is_asked_for = target.options.get("uses_responses") or address.endswith("/responses")
        self.responses = Responses(self) if is_asked_for else None

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        if self.responses is None:
            return super().request(messages, parameters)
        return ProviderRequest(
            url=self.url("/responses"),
            headers=self.headers("text/event-stream"),
            body=self.body(self.responses.body(messages, parameters)),
        )

    def _of_value(self, value: JSONObject, event: str | None) -> Iterator[Event]:
        if self.responses is None:
            yield from super()._of_value(value, event)
        else:
            yield from self.responses.events(value)
