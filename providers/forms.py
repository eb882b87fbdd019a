"""The admin's form of a configuration. The key goes in and never comes out (contract P5, P9)."""

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.functional import cached_property

from providers import validators
from providers.adapters import registry
from providers.adapters.base import CAPABILITIES, SAMPLING
from providers.adapters.custom import Custom
from providers.custom_form import CustomFields
from providers.fields import SecretUnreadable
from providers.models import AnswerSchema, Configuration

if TYPE_CHECKING:
    AnswerSchemaModelForm = forms.ModelForm[AnswerSchema]
    ConfigurationModelForm = forms.ModelForm[Configuration]
else:
    AnswerSchemaModelForm = ConfigurationModelForm = forms.ModelForm

KEY_MAX_CHARACTERS = 10_000  # tokens of some gateways are whole JWTs


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Json", "JSON")


class ObjectField(forms.JSONField):
    """A JSON object; empty means {}. JSON that Python cannot hold is an error, not a crash."""

    def to_python(self, value: Any) -> Any:
        try:
            found = super().to_python(value)
        except (ValueError, RecursionError):  # thousands of digits or of levels
            raise self._unreadable(value) from None
        return {} if found is None else found

    def bound_data(self, data: Any, initial: Any) -> Any:
        # A refused form shows what was typed: written anew it might not even fit in a page.
        return initial if self.disabled else forms.fields.InvalidJSONInput(data or "")

    def _unreadable(self, value: Any) -> ValidationError:
        return ValidationError(self.error_messages["invalid"], "invalid", {"value": value})


class ConfigurationForm(CustomFields, ConfigurationModelForm):
    """A configuration with a write-only box for its key, and a box for each custom setting.

    The key belongs to who it was entered for: another host, port or scheme asks for it again.
    """

    kind = forms.ChoiceField()
    api_key = forms.CharField(
        label="API key",
        required=False,
        max_length=KEY_MAX_CHARACTERS,
        validators=[validators.api_key],
        widget=forms.PasswordInput(
            render_value=False, attrs={"autocomplete": "new-password", "class": "vTextField"}
        ),
    )
    remove_key = forms.BooleanField(label="Remove the stored key", required=False)
    extra_headers = ObjectField(
        required=False,
        help_text=Configuration._meta.get_field("extra_headers").help_text,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 80, "spellcheck": "false"}),
    )
    extra_body = ObjectField(
        required=False,
        help_text=Configuration._meta.get_field("extra_body").help_text,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 80, "spellcheck": "false"}),
    )

    capabilities = forms.MultipleChoiceField(
        label="What the model can do",
        required=False,
        choices=[(name, _label(name)) for name in CAPABILITIES],
        widget=forms.CheckboxSelectMultiple,
        help_text=Configuration._meta.get_field("capabilities").help_text,
    )
    refused_parameters = forms.MultipleChoiceField(
        label="What the model refuses",
        required=False,
        choices=[(name, _label(name)) for name in SAMPLING],
        widget=forms.CheckboxSelectMultiple,
        help_text=Configuration._meta.get_field("refused_parameters").help_text,
    )

    class Meta:
        model = Configuration
        exclude = ("api_key", "request", "response")  # the admin's fieldsets name the others

    @cached_property
    def changed_data(self) -> list[str]:
        """The fields that the history names. Those of custom endpoints lie hidden for other kinds,
        with what a browser sends for fields that nobody has touched."""
        changed: list[str] = super().changed_data
        if self.cleaned_data.get("kind") == Custom.kind:
            return changed
        return [name for name in changed if name not in CustomFields.base_fields]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As stored, before the posted values are put into the instance.
        self.show_custom(self.instance)
        self.has_key = bool(self.instance.pk and self.instance.api_key)
        self.key_origin = self.instance.origin if self.has_key else None
        if "kind" in self.fields:
            kind = self.fields["kind"]
            assert isinstance(kind, forms.ChoiceField)  # noqa: S101 - for the type checker
            adapters = [registry.adapter_class(name) for name in registry.kinds()]
            kind.choices = [(adapter.kind, adapter.label) for adapter in adapters]
            free = ", ".join(adapter.label for adapter in adapters if adapter.is_free)
            kind.help_text = f"Prices that are left empty begin at 0 for: {free}."
        if "api_key" in self.fields:
            self.fields["api_key"].help_text = self._about_key()
        if "remove_key" in self.fields and not self.has_key:
            self.fields["remove_key"].widget = forms.HiddenInput()

    def _about_key(self) -> str:
        if not self.has_key:
            return "No key is set. It is stored encrypted and never shown again."
        try:
            self.instance.api_key.reveal()
        except SecretUnreadable:
            return "The stored key can no longer be decrypted. Enter it again."
        host = f" for {self.key_origin}" if self.key_origin else ""
        return f"A key is set{host}. Leave this empty to keep it; what is entered replaces it."

    def clean_system_instructions(self) -> str:
        # Browsers send line breaks as CR LF: what the model gets is what was typed.
        return str(self.cleaned_data["system_instructions"]).replace("\r\n", "\n")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("kind") == Custom.kind:
            self.take_custom(self.instance, cleaned)
        new_key, removes = cleaned.get("api_key"), cleaned.get("remove_key")
        if new_key and removes:
            self.add_error("remove_key", "Either enter a new key or remove the stored one.")
        is_readable = "kind" in cleaned and "base_url" in cleaned
        if self.has_key and is_readable and not (new_key or removes):
            target = Configuration(kind=cleaned["kind"], base_url=cleaned["base_url"])
            is_no_address = target.origin is None and bool(cleaned["base_url"])
            if target.origin != self.key_origin and not is_no_address:
                former = self.key_origin or "another host"
                self.add_error(
                    "api_key",
                    f"The key belongs to {former}; enter it again for {target.origin}."
                    if target.origin
                    else f"The key belongs to {former}; remove it, as this kind needs none.",
                )
        return cleaned

    def save(self, commit: bool = True) -> Configuration:
        if self.cleaned_data.get("api_key"):
            self.instance.set_api_key(self.cleaned_data["api_key"])
        elif self.cleaned_data.get("remove_key"):
            self.instance.set_api_key("")
        if self.instance._state.adding:
            self.instance.begin_free()
        return super().save(commit)

    def _get_validation_exclusions(self) -> set[str]:
        # Ticking "default" moves it here from the former one; it is no conflict.
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc] # no stub
        return excluded | {"is_default"}


class ModelChoiceForm(ConfigurationModelForm):
    """A model from the provider's list. What the provider did not tell is empty."""

    capabilities = forms.MultipleChoiceField(
        required=False, choices=[(name, name) for name in CAPABILITIES]
    )
    refused_parameters = forms.MultipleChoiceField(
        required=False, choices=[(name, name) for name in SAMPLING]
    )

    class Meta:
        model = Configuration
        fields = (
            "model",
            "context_window",
            "input_price",
            "cached_input_price",
            "output_price",
            "capabilities",
            "refused_parameters",
        )

    def clean_capabilities(self) -> list[str] | None:
        return self.cleaned_data["capabilities"] or None

    def clean_refused_parameters(self) -> list[str] | None:
        # Told with the capabilities, or not at all.
        is_told = bool(self.cleaned_data.get("capabilities"))
        return self.cleaned_data["refused_parameters"] if is_told else None


class Indented(json.JSONEncoder):
    """JSON for people to edit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "indent": 2})


class AnswerSchemaForm(AnswerSchemaModelForm):
    schema = ObjectField(
        label="JSON schema",
        help_text=AnswerSchema._meta.get_field("schema").help_text,
        widget=forms.Textarea(attrs={"rows": 20, "cols": 80, "spellcheck": "false"}),
        encoder=Indented,
    )

    class Meta:
        model = AnswerSchema
        fields = ("name", "slug", "description", "schema")
