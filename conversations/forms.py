"""Every bound of a request, once for form, JSON and query string (contract C1)."""

import json
import math
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.template.defaultfilters import pluralize

from conversations.models import TITLE_CHARACTERS
from conversations.planning import Asked
from providers import schemas
from providers.adapters.base import Parameters, Schema
from providers.models import AnswerSchema

CHARACTERS_PER_TOKEN = 4  # about, in what is not seen (providers.tokens)
SCALARS = (str, int, float, type(None))


class Unreadable(Exception):
    """The body of a request is not what its content type says (400)."""


def request_data(request: HttpRequest) -> dict[str, Any]:
    """The fields of a POST, from a form or from a JSON object. Raises Unreadable."""
    if request.content_type != "application/json":
        return request.POST.dict()
    try:
        data = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Unreadable("The body is not valid JSON.") from None
    if not isinstance(data, dict):
        raise Unreadable("The body has to be a JSON object.")
    return data


def no_broken_text(text: str) -> None:
    """Half a character (a lone surrogate) can be neither stored nor sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError("This text has a character that is not valid Unicode.") from None


class PlainForm(forms.Form):
    """A form whose values are texts and numbers: `true`, lists and objects are errors."""

    def clean(self) -> dict[str, Any]:
        for name in self.fields:
            value = self.data.get(name)
            if isinstance(value, bool) or not isinstance(value, SCALARS):
                self.errors.pop(name, None)  # one error that says it all
                self.add_error(name, "Give a text or a number here.")
        return self.cleaned_data


class NumberField(forms.FloatField):
    """A finite number."""

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value is not None and not math.isfinite(value):
            raise ValidationError(self.error_messages["invalid"], code="invalid")


def within(what: str, least: int, most: int) -> dict[str, Any]:
    """The options of an optional number field, whose one error says what is allowed."""
    message = f"Give {what} from {least} to {most:,}, or leave it empty for the default."
    return {
        "required": False,
        "min_value": least,
        "max_value": most,
        "error_messages": dict.fromkeys(("invalid", "min_value", "max_value"), message),
    }


class MessageForm(PlainForm):
    """What is sent with a message; also shows the session's parameters in the composer.

    Blank fields mean the configuration's default.
    """

    prompt = forms.CharField(
        strip=False,
        validators=[no_broken_text],
        error_messages={"required": "Write a message first."},
    )
    configuration_id = forms.CharField(required=False, max_length=100, validators=[no_broken_text])
    temperature = NumberField(**within("a number", 0, 2))
    max_tokens = forms.IntegerField(**within("a whole number", 1, 128_000))
    top_p = NumberField(**within("a number", 0, 1))
    context_limit = forms.IntegerField(**within("a whole number", 0, 100))
    schema = forms.CharField(required=False, max_length=schemas.MOST_BYTES)
    attachments = forms.CharField(required=False)
    idempotency_key = forms.CharField(required=False, max_length=200, validators=[no_broken_text])

    def clean_prompt(self) -> str:
        # Browsers send line breaks as CR LF: what counts is what was typed.
        prompt: str = self.cleaned_data["prompt"].replace("\r\n", "\n")
        if not prompt.strip():
            raise ValidationError("Write a message first.", code="required")
        if len(prompt) > settings.PROMPT_MAX_CHARACTERS:
            raise ValidationError(
                f"The message has {len(prompt):,} characters; "
                f"at most {settings.PROMPT_MAX_CHARACTERS:,} are allowed. Shorten it.",
                code="max_length",
            )
        return prompt

    def clean_schema(self) -> Schema | None:
        """The name of a schema that is kept, a JSON schema as text, or `none` for none where the
        configuration has one."""
        source: str = self.cleaned_data["schema"].strip()
        if not source:
            return None
        try:
            if source.startswith("{"):
                return schemas.parsed(source)
            return AnswerSchema.objects.find(source)
        except (schemas.BadSchema, AnswerSchema.DoesNotExist) as error:
            raise ValidationError(str(error)) from None

    def clean_attachments(self) -> tuple[UUID, ...]:
        """The ids of uploaded images, separated by commas."""
        words = [word.strip() for word in self.cleaned_data["attachments"].split(",")]
        try:
            ids = tuple(dict.fromkeys(UUID(word) for word in words if word))
        except ValueError:
            raise ValidationError(
                "There is no such image. Remove it, and attach it again."
            ) from None
        if len(ids) > settings.ATTACHMENTS_PER_MESSAGE:
            most = settings.ATTACHMENTS_PER_MESSAGE
            raise ValidationError(
                f"A message may have {most} image{pluralize(most)} at most. Remove some."
            )
        return ids

    @property
    def asked(self) -> Asked:
        """The checked values. Only for a valid form."""
        data = self.cleaned_data
        return Asked(
            prompt=data.get("prompt", ""),
            parameters=Parameters(
                temperature=data["temperature"],
                top_p=data["top_p"],
                max_tokens=data["max_tokens"],
                schema=data["schema"],
            ),
            context_limit=data["context_limit"],
            idempotency_key=data["idempotency_key"],
            schema_source=self["schema"].data or "",
            attachments=data.get("attachments", ()),
        )


class ParametersForm(MessageForm):
    """The same without a prompt: what a retry sends, or a question about the context."""

    prompt = None  # type: ignore[assignment]  # Django's way to leave out an inherited field
    attachments = None  # type: ignore[assignment]

    def clean_prompt(self) -> str:
        return ""


class ContextForm(ParametersForm):
    """A question about the next request, whose text is still being written: it is not told."""

    prompt_characters = forms.IntegerField(**within("a whole number", 0, 1_000_000))

    @property
    def prompt_tokens(self) -> int:
        """Estimated. Only for a valid form."""
        return math.ceil((self.cleaned_data["prompt_characters"] or 0) / CHARACTERS_PER_TOKEN)


class ReplayForm(PlainForm):
    """How a recorded request is sent again."""

    SAME, EDITED, OTHER = "same", "edited", "other"

    how = forms.ChoiceField(
        choices=[
            (SAME, "Unchanged"),
            (EDITED, "With an edited body"),
            (OTHER, "To another configuration"),
        ],
        error_messages={"required": "Choose how to send it again: same, edited or other."},
    )
    body = forms.CharField(required=False, strip=False)
    configuration_id = forms.CharField(required=False, max_length=100, validators=[no_broken_text])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        needed = {self.EDITED: "body", self.OTHER: "configuration_id"}.get(cleaned.get("how", ""))
        if needed and not cleaned.get(needed):
            self.add_error(needed, "This is needed for it.")
        return cleaned


class TitleForm(PlainForm):
    title = forms.CharField(max_length=TITLE_CHARACTERS, validators=[no_broken_text])

    def clean_title(self) -> str:
        return " ".join(self.cleaned_data["title"].split())
