"""What a request body tells of how much it may use, in whatever way its provider spells it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from providers.tokens import estimate

_LENGTHS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
_LONGEST: Final = 10**9  # tokens; what is beyond it is a slip
_BINARY: Final = ("data", "images")  # fields whose texts are images (Anthropic, Ollama)


def answer_tokens(body: Mapping[str, Any]) -> int | None:
    """How long all of its answers together may become; None where it does not say."""
    options = body.get("options")  # Ollama's place for it
    places = [body, options] if isinstance(options, Mapping) else [body]
    told = [_count(place.get(name)) for place in places for name in _LENGTHS]
    longest = max(filter(None, told), default=None)
    if longest is None:
        return None
    return min(longest * (_count(body.get("n")) or 1), _LONGEST)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return None  # Ollama's -1 is: without end
    return min(value, _LONGEST)


def text_tokens(body: Mapping[str, Any]) -> int:
    """About how many tokens all of its texts are, without its images."""
    return sum(map(estimate, _texts(body)))


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    rest: list[Any] = [body]  # no recursion: a body may be nested as deeply as JSON may
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            rest.extend(inner for name, inner in value.items() if name not in _BINARY)
        elif isinstance(value, list):
            rest.extend(value)
        elif isinstance(value, str) and not value.startswith("data:"):
            yield value
