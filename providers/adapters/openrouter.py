"""Kind `openrouter`: one key for the models of many providers, with their prices.

Source: openrouter.md; recordings `openrouter-*`.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from providers.adapters.base import (
    SAMPLING,
    Effort,
    Feature,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
)
from providers.adapters.openai_compatible import OpenAICompatible
from providers.adapters.thinking import ThinkTags
from providers.adapters.untrusted import count, mapping, money, text
from providers.events import Usage

# Its names of prices, and ours.
_PRICES: Final = {
    "input": "prompt",
    "cached_input": "input_cache_read",
    "output": "completion",
}
# What a model has to support for each of them.
_FEATURES: Final = {
    "structured_outputs": Feature.JSON_SCHEMA,
    "tools": Feature.TOOLS,
    "reasoning": Feature.REASONING,
}


class OpenRouter(ThinkTags, OpenAICompatible):
    """Reports the cost of each answer, whatever `stream_options` says."""

    kind = "openrouter"
    label = "OpenRouter"
    default_base_url = "https://openrouter.ai/api/v1"
    needs_key = True
    # The title is for the owner of the key, in OpenRouter's own log. An `HTTP-Referer` would tell
    # the address of this site: whoever wants that gives the configuration an extra header.
    own_headers = {"X-OpenRouter-Title": "llmchat"}

    def prefix(self, host: str, typed: str) -> str:
        is_own = host == "openrouter.ai" or host.endswith(".openrouter.ai")
        if typed in {"", "/api"} or (is_own and typed == "/v1"):
            return "/api/v1"
        return super().prefix(host, typed)

    def options(self, parameters: Parameters) -> JSONObject:
        options = super().options(parameters)
        if parameters.schema:
            # Upstreams that do not know a field ignore it; such must not be chosen here.
            options["provider"] = {"require_parameters": True}
        return options

    def reasoning(self, parameters: Parameters) -> JSONObject:
        effort, tokens = parameters.reasoning_effort, parameters.reasoning_tokens
        if tokens is not None and effort is not Effort.NONE:
            return {"reasoning": {"max_tokens": tokens}}
        return {} if effort is None else {"reasoning": {"effort": effort.value}}

    def key_request(self) -> ProviderRequest:
        # The list of models is open to all.
        return ProviderRequest(
            self.url("/key"), self.headers("application/json"), body={}, method="GET"
        )

    def model_info(self, model: JSONObject) -> ModelInfo:
        """One entry of the list.

        The window is that of the upstream which is asked by default: the list's own is the best of
        all upstreams, and may be five times as much.
        """
        windows = (
            model.get("context_length"),
            mapping(model.get("top_provider")).get("context_length"),
        )
        known = [window for found in windows if (window := count(found))]
        pricing = mapping(model.get("pricing"))
        prices = {
            ours: price
            for ours, theirs in _PRICES.items()
            if (price := _per_million(pricing.get(theirs)))
        }
        return ModelInfo(
            id=text(model["id"]),
            name=text(model.get("name")),
            context_window=min(known, default=None),
            prices=prices or None,
            features=_features(model),
            refused=_refused(model),
        )

    def usage(self, value: JSONObject) -> Usage | None:
        usage = super().usage(value)
        found = mapping(value.get("usage"))
        if usage is None or found.get("is_byok") is not True:
            return usage
        # With a key of one's own at the upstream, `cost` is only OpenRouter's part of the price.
        upstream = money(mapping(found.get("cost_details")).get("upstream_inference_cost"))
        cost = None if upstream is None else upstream + (usage.cost_usd or 0)
        return replace(usage, cost_usd=cost)


def _features(model: JSONObject) -> frozenset[Feature] | None:
    told = model.get("supported_parameters")
    if not isinstance(told, list):
        return None
    found = {feature for name, feature in _FEATURES.items() if name in told}
    seen = mapping(model.get("architecture")).get("input_modalities")
    if isinstance(seen, list) and "image" in seen:
        found.add(Feature.VISION)
    return frozenset(found)


def _refused(model: JSONObject) -> frozenset[str] | None:
    told = model.get("supported_parameters")
    if not isinstance(told, list):
        return None
    return frozenset(name for name in SAMPLING if name not in told)


def _per_million(price: Any) -> str:
    """A price in USD per token, as a decimal text, for a million; "" if it is unknown (-1)."""
    try:
        per_million = money(Decimal(text(price)) * 1_000_000)
    except ArithmeticError:  # no number, or one without end
        return ""
    # To a millionth of a dollar, which is what a configuration can hold.
    return "" if per_million is None else f"{round(per_million, 6).normalize():f}"
