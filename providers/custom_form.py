"""The part of the admin's form that describes an endpoint of the kind `custom`.

A box for each setting; the model keeps them as two objects, `request` and `response`, in which
what is empty is missing (see `adapters.custom_settings`).
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from django import forms

from providers.adapters.custom_settings import (
    DEFAULT_BODY,
    NAMES,
    Auth,
    BadSettings,
    Format,
    RequestSettings,
    ResponseSettings,
    Shape,
)
from providers.models import Configuration

REQUEST_KEYS: Final = ("method", "path", "auth", "auth_name", "messages", "body")
PATH_KEYS: Final = (
    "text_path",
    "cumulative",
    "reasoning_path",
    "finish_path",
    "prompt_tokens_path",
    "completion_tokens_path",
    "error_path",
    "end_marker",
    "end_path",
)
RESPONSE_KEYS: Final = ("format", *PATH_KEYS)
REQUEST_FIELDS: Final = tuple(f"request_{key}" for key in REQUEST_KEYS)
RESPONSE_FIELDS: Final = tuple(f"response_{key}" for key in RESPONSE_KEYS)

_NAMED_AUTHS: Final = {Auth.HEADER, Auth.QUERY}
_FORMATS_WITH_PATHS: Final = {Format.SSE, Format.NDJSON}


class _JSONText(forms.CharField):
    """Text of several lines. Browsers send line breaks as CR LF: what was typed is LF."""

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")


def _line(label: str, help_text: str) -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        help_text=help_text,
        widget=forms.TextInput(
            attrs={"class": "vTextField", "spellcheck": "false", "autocomplete": "off"}
        ),
    )


class CustomFields(forms.Form):
    """Fields that only the kind `custom` has. What they hold for other kinds is not looked at."""

    request_method = forms.ChoiceField(
        label="Method", required=False, choices=[("POST", "POST"), ("PUT", "PUT")]
    )
    request_path = _line(
        "Path",
        "Put after the base URL; {{model}} stands for the model's name. "
        "Empty where the base URL is the whole address.",
    )
    request_auth = forms.ChoiceField(
        label="Key is sent as",
        required=False,
        choices=[
            (Auth.BEARER, "Authorization: Bearer"),
            (Auth.HEADER, "another header"),
            (Auth.QUERY, "a parameter of the address"),
            (Auth.NONE, "not at all"),
        ],
    )
    request_auth_name = _line(
        "Header or parameter",
        "Such as x-api-key; Authorization: Token for a word before the key; key in an address.",
    )
    request_messages = forms.ChoiceField(
        label="{{messages}} is",
        required=False,
        choices=[
            (Shape.OPENAI, 'a list as OpenAI has it: [{"role", "content"}]'),
            (Shape.CONTENTS, 'a list as Gemini has it: [{"role", "parts": [{"text"}]}]'),
            (Shape.TEXT, "one text with all of the conversation"),
        ],
    )
    request_body = _JSONText(
        label="Body",
        required=False,
        initial=json.dumps(DEFAULT_BODY, indent=2),
        help_text="JSON with places for values: "
        + ", ".join(f"{{{{{name}}}}}" for name in NAMES)
        + ". A place that is all of a text becomes the value, also a list or a number; a key whose "
        "place has no value is left out. {{prompt}} is the question alone.",
        widget=forms.Textarea(
            attrs={"rows": 12, "cols": 80, "class": "vLargeTextField", "spellcheck": "false"}
        ),
    )
    response_format = forms.ChoiceField(
        label="Format",
        required=False,
        choices=[
            (Format.OPENAI, "as OpenAI has it (server-sent events)"),
            (Format.SSE, "server-sent events with any JSON"),
            (Format.NDJSON, "lines of JSON (NDJSON)"),
            (Format.TEXT, "plain text"),
        ],
    )
    response_text_path = _line(
        "Text",
        "Where the text stands in each event: names and list numbers joined by dots, as "
        "choices.0.delta.content. Events without it are passed over.",
    )
    response_cumulative = forms.BooleanField(
        label="Each text is the whole text so far",
        required=False,
        help_text="Only what is new in it is shown.",
    )
    response_reasoning_path = _line("Thinking", "Where thinking text stands, if there is any.")
    response_finish_path = _line(
        "Finish reason",
        "Where the word stands that says why the answer ended. An answer without it is then one "
        "that broke off.",
    )
    response_prompt_tokens_path = _line(
        "Input tokens", "Where they are counted; the last count holds. Empty: they are estimated."
    )
    response_completion_tokens_path = _line("Output tokens", "The same for the answer.")
    response_error_path = _line(
        "Error message",
        "Where an event tells of an error. A field named error and an event of this name are "
        "known anyway.",
    )
    response_end_marker = _line(
        "End marker",
        "The data of the last event, or its event name. [DONE] is known anyway.",
    )
    response_end_path = _line(
        "End flag",
        "What is true in the last event, as done. With no finish reason, marker and flag, the "
        "answer ends where the body ends.",
    )

    def show_custom(self, configuration: Configuration) -> None:
        """Begin with what is stored."""
        for part in ("request", "response"):
            for key, value in getattr(configuration, part).items():
                if key == "body" and not isinstance(value, str):
                    value = json.dumps(value, indent=2, ensure_ascii=False)
                self.initial.setdefault(f"{part}_{key}", value)

    def take_custom(self, configuration: Configuration, cleaned: Mapping[str, Any]) -> None:
        """Put what was typed into the configuration. What is wrong becomes errors of its field."""
        request = _given("request", REQUEST_KEYS, cleaned)
        response = _given("response", RESPONSE_KEYS, cleaned)
        # The page hides what has no meaning, so what is left in there is not complained about.
        if request.get("auth") not in _NAMED_AUTHS:
            request.pop("auth_name", None)
        if response.get("format") not in _FORMATS_WITH_PATHS:
            for key in PATH_KEYS:
                response.pop(key, None)
        for part, value, read in (
            ("request", request, RequestSettings.read),
            ("response", response, ResponseSettings.read),
        ):
            try:
                read(value)
            except BadSettings as error:
                for key, problem in error.problems.items():
                    self.add_error(f"{part}_{key}", problem)
            setattr(configuration, part, value)


def _given(part: str, keys: tuple[str, ...], cleaned: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: cleaned.get(f"{part}_{key}") for key in keys}
    return {key: value for key, value in values.items() if value}
