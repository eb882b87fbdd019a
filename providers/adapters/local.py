"""Kind `local`: llama.cpp's llama-server, LM Studio, vLLM and others like them.

Source: local.md; recordings `local-*`. They need no key and cost nothing. Where the server does not
take thinking out of the text, `thinking` does. LM Studio answers with whatever model is loaded if
only one is, whatever name is asked for.
"""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from providers.adapters.base import (
    Effort,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
    Target,
)
from providers.adapters.openai_compatible import OpenAICompatible
from providers.adapters.thinking import ThinkTags
from providers.adapters.untrusted import count, mapping, mappings, text


class Local(ThinkTags, OpenAICompatible):
    """A server on this machine or network. The default address is llama-server's."""

    kind = "local"
    label = "Local server (llama.cpp, LM Studio, vLLM)"
    default_base_url = "http://localhost:8080"
    is_free = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._details = ""  # where this server tells more about its models

    def prefix(self, host: str, typed: str) -> str:
        # LM Studio and Ollama have their own API below /api, the one that is meant beside it.
        return super().prefix(host, "" if typed in {"/api", "/api/v0"} else typed)

    def reasoning(self, parameters: Parameters) -> JSONObject:
        fields = super().reasoning(parameters)
        if parameters.reasoning_effort is Effort.NONE:
            # Templates such as Qwen's are told so, and know no efforts.
            fields["chat_template_kwargs"] = {"enable_thinking": False}
        return fields

    def models(self, answer: Any) -> list[ModelInfo]:
        # The list tells how much a model could take; how much it takes here, only some servers
        # tell. Whose list it is says which of them this is.
        owners = {text(model.get("owned_by")) for model in mappings(mapping(answer).get("data"))}
        found = super().models(answer)
        # With several models llama-server would first have to load each of them.
        if owners == {"llamacpp"} and len(found) == 1:
            self._details = "/props"
        elif owners == {"organization_owner"}:  # LM Studio's word
            self._details = "/api/v0/models"
        return found

    def model_request(self, model: str) -> ProviderRequest | None:
        if not self._details:
            return None
        parts = urlsplit(self.url("/models"))
        root = re.sub(r"(/v\d\w*)?/models$", "", parts.path)
        return ProviderRequest(
            urlunsplit(parts._replace(path=root + self._details)),
            self.headers("application/json"),
            body={},
            method="GET",
        )

    def model(self, model: str, answer: Any) -> ModelInfo:
        """The window that the server was started with, or that LM Studio has loaded it with."""
        answer = mapping(answer)
        window = count(mapping(answer.get("default_generation_settings")).get("n_ctx"))
        for told in mappings(answer.get("data")):
            if told.get("id") == model:
                window = count(told.get("loaded_context_length")) or count(
                    told.get("max_context_length")
                )
        return ModelInfo(model, context_window=window)
