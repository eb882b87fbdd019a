"""Configurations: one provider, one model and its defaults, under a name that people choose."""

from copy import copy as copy_of
from dataclasses import replace
from decimal import Decimal
from itertools import chain, count
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from providers import addresses, schemas, validators
from providers.adapters import registry
from providers.adapters.base import (
    CAPABILITIES,
    Adapter,
    Effort,
    Feature,
    Parameters,
    Schema,
    Target,
)
from providers.client import Limits
from providers.errors import ApiKeyInvalid
from providers.fields import EncryptedText, EncryptedTextField, SecretUnreadable
from providers.pricing import Prices

SECONDS = [MinValueValidator(0.1), MaxValueValidator(86_400)]
NOT_NEGATIVE = [MinValueValidator(0)]
PLAIN = [validators.plain_text]


class AnswerSchemaQuerySet(models.QuerySet["AnswerSchema"]):
    def find(self, slug: str) -> Schema:
        """The schema of this slug, or the one that stands for none. Raises DoesNotExist with a
        sentence for people."""
        if slug == AnswerSchema.NONE:
            return schemas.NONE
        kept = self.filter(slug=slug).first()
        if kept is None:
            raise AnswerSchema.DoesNotExist(f"There is no schema “{slug[:100]}”. Choose another.")
        return kept.value


class AnswerSchema(models.Model):
    """A JSON schema that answers may have to be valid against (contract C11)."""

    NONE = "none"  # the slug that stands for no schema

    name = models.CharField(max_length=100, validators=PLAIN)
    slug = models.SlugField(
        max_length=64, unique=True, help_text="Its name in requests; providers get it too."
    )
    description = models.CharField(max_length=300, blank=True, validators=PLAIN)
    schema = models.JSONField(
        "JSON schema",
        validators=[validators.json_schema],
        help_text="What an answer has to be. For OpenAI, every object needs "
        "“additionalProperties”: false and all of its properties in “required”.",
    )

    objects = AnswerSchemaQuerySet.as_manager()

    class Meta:
        ordering = ["name", "pk"]
        verbose_name = "answer schema"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.slug == self.NONE:
            raise ValidationError({"slug": "This stands for no schema. Choose another."})

    @property
    def value(self) -> Schema:
        return Schema(self.slug, self.schema)


class ConfigurationQuerySet(models.QuerySet["Configuration"]):
    def active(self) -> "ConfigurationQuerySet":
        return self.filter(is_active=True)

    def usable_by(self, user: AbstractBaseUser | AnonymousUser) -> "ConfigurationQuerySet":
        """Active ones that `user` may use: those open to all, and those of the user's groups."""
        everyone = Q(allowed_groups=None)
        return self.active().filter(everyone | Q(allowed_groups__user=user.pk)).distinct()

    def find(self, id_or_slug: str) -> "Configuration":
        """The one with this id (preferred) or slug. Raises Configuration.DoesNotExist."""
        if id_or_slug.isascii() and id_or_slug.isdigit() and len(id_or_slug) < 19:
            by_id = self.filter(pk=int(id_or_slug)).first()
            if by_id:
                return by_id
        return self.get(slug=id_or_slug)

    def preferred(self) -> "Configuration | None":
        """The default one, else the first."""
        return self.order_by("-is_default", "name", "pk").first()


def known_kind(kind: str) -> None:
    if kind not in registry.kinds():
        raise ValidationError(f"{kind} is no kind of provider; known are {registry.kinds()}.")


class Configuration(models.Model):
    """One provider + model + defaults.

    A key belongs to the host it was entered for: whoever changes the host enters the key again
    (contract P9). Prices are USD per million tokens; None is unknown, 0 is free.
    """

    name = models.CharField(
        max_length=100, validators=PLAIN, help_text="What people see when they choose a model."
    )
    slug = models.SlugField(
        max_length=100, unique=True, help_text="Its name in the API and in commands."
    )
    kind = models.CharField(max_length=30, validators=[known_kind])
    model = models.CharField(
        max_length=200,
        validators=PLAIN,
        help_text="The model's name at the provider, for instance gpt-4o-mini.",
    )
    base_url = models.CharField(
        "base URL",
        max_length=500,
        blank=True,
        help_text="Empty for the provider's own address. With or without a trailing slash, "
        "/v1 or /api.",
    )
    api_key = EncryptedTextField("API key")
    system_instructions = models.TextField(
        blank=True,
        validators=PLAIN,
        help_text="Sent before every conversation that has none of its own.",
    )
    temperature = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(2)]
    )
    top_p = models.FloatField(
        "top p", null=True, blank=True, validators=[MinValueValidator(0), MaxValueValidator(1)]
    )
    max_tokens = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(128_000)]
    )
    reasoning_effort = models.CharField(
        max_length=10,
        blank=True,
        db_default="",
        default="",
        choices=[(effort.value, effort.value.capitalize()) for effort in Effort],
        help_text="How much a model that can think is to think. Empty for its own way.",
    )
    reasoning_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="Tokens that it may think at most, where a provider takes a number.",
    )
    schema = models.ForeignKey(
        AnswerSchema,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        verbose_name="answer schema",
        help_text="What all answers have to be, unless a request says otherwise.",
    )
    context_limit = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(100)],
        help_text="How many earlier messages are sent; 0 for none.",
    )
    context_window = models.PositiveIntegerField(
        null=True, blank=True, help_text="Tokens that the model can take in; empty if unknown."
    )
    capabilities = models.JSONField(
        default=list,
        blank=True,
        validators=[validators.capabilities],
        help_text="Nothing ticked: not known, and all that the kind can do is offered.",
    )
    refused_parameters = models.JSONField(
        default=list,
        blank=True,
        validators=[validators.refused_parameters],
        help_text="What is ticked here is never sent, as some models answer it with an error.",
    )
    input_price = models.DecimalField(
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=NOT_NEGATIVE,
        help_text="USD per million tokens.",
    )
    cached_input_price = models.DecimalField(
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=NOT_NEGATIVE,
        help_text="USD per million tokens.",
    )
    output_price = models.DecimalField(
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=NOT_NEGATIVE,
        help_text="USD per million tokens.",
    )
    connect_timeout = models.FloatField(
        null=True, blank=True, validators=SECONDS, help_text="Seconds."
    )
    first_chunk_timeout = models.FloatField(
        null=True, blank=True, validators=SECONDS, help_text="Seconds."
    )
    chunk_timeout = models.FloatField(
        null=True, blank=True, validators=SECONDS, help_text="Seconds."
    )
    total_timeout = models.FloatField(
        null=True, blank=True, validators=SECONDS, help_text="Seconds."
    )
    extra_headers = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.headers],
        help_text='More request headers, as {"Name": "value"}. Whoever may change this '
        "configuration can read them; they are never logged or shown in the inspector.",
    )
    extra_body = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.json_object],
        help_text="More fields of the request body, as an object; null takes a field out. "
        "The inspector shows them.",
    )
    uses_responses = models.BooleanField(
        "Responses API",
        db_default=False,
        default=False,
        help_text="For the kind openai: use /responses in place of /chat/completions.",
    )
    request = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.custom_request],
        help_text="How an endpoint of the kind custom is asked.",
    )
    response = models.JSONField(
        default=dict,
        blank=True,
        validators=[validators.custom_response],
        help_text="How the answer of an endpoint of the kind custom is read.",
    )
    is_active = models.BooleanField("active", default=True)
    is_default = models.BooleanField("default", default=False)
    allowed_groups = models.ManyToManyField(
        Group, blank=True, help_text="Who may use it. No group chosen: everybody may."
    )
    # The number of its latest revision; 0 where nobody has recorded one.
    revision = models.PositiveIntegerField(db_default=0, default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ConfigurationQuerySet.as_manager()

    class Meta:
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True),
                name="one_default_configuration",
                violation_error_message="Another configuration is the default already.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def adapter_class(self) -> type[Adapter]:
        return registry.adapter_class(self.kind)

    def supports(self, feature: Feature) -> bool:
        """Whether its model can do this, as far as is known."""
        told = self.capabilities
        if feature not in CAPABILITIES:
            told = []  # models do not differ in it
        return self.adapter_class.supports(feature) and (not told or feature in told)

    @property
    def abilities(self) -> list[tuple[str, bool]]:
        """What models differ in, each with whether this one can do it."""
        return [(name, self.supports(Feature(name))) for name in CAPABILITIES if name != "text"]

    @property
    def origin(self) -> addresses.Origin | None:
        """Who gets its requests, and with them the key; None where nobody does (demo)."""
        if self.kind not in registry.kinds():
            return None
        try:
            return addresses.parse(
                self.base_url or self.adapter_class.default_base_url, private_allowed=True
            )
        except addresses.BadAddress:
            return None

    @property
    def host(self) -> str:
        """The host (and port) that the key is sent to, "" for none."""
        return str(self.origin or "")

    def clean(self) -> None:
        """What concerns more than one field. Raises ValidationError."""
        errors: dict[str, str] = {}
        # Model fields do not validate what counts as empty, such as a list.
        for name in ("extra_headers", "extra_body", "request", "response"):
            if not isinstance(getattr(self, name), dict):
                errors[name] = 'Write an object, as {"name": "value"}.'
        if self.uses_responses and self.kind != "openai":
            errors["uses_responses"] = "Only the kind openai has this. Take the tick out."
        if self.is_default and not self.is_active:
            errors["is_default"] = "Only an active configuration can be the default."
        is_known = self.kind in registry.kinds()
        default = self.adapter_class.default_base_url if is_known else ""
        address = self.base_url or default
        if is_known and not address:
            errors["base_url"] = "This kind has no address of its own; enter one."
        # The demo's own address is none, and nothing connects to it.
        if address and (address != default or default.startswith("http")):
            try:
                validators.base_url(address)
            except ValidationError as error:
                errors["base_url"] = str(error.message)
        if errors:
            raise ValidationError(errors)

    @property
    def prices(self) -> Prices:
        return Prices(
            input=self.input_price,
            cached_input=self.cached_input_price,
            output=self.output_price,
        )

    @property
    def limits(self) -> Limits:
        """Its time limits, else the settings'."""
        return Limits(
            connect=self.connect_timeout or settings.CONNECT_TIMEOUT,
            first_chunk=self.first_chunk_timeout or settings.FIRST_CHUNK_TIMEOUT,
            chunk=self.chunk_timeout or settings.CHUNK_TIMEOUT,
            answer_bytes=settings.ANSWER_MAX_BYTES,
            line_bytes=settings.LINE_MAX_BYTES,
            private_allowed=settings.ALLOW_PRIVATE_ADDRESSES,
        )

    @property
    def total_limit(self) -> float:
        """Seconds that one run may take, with all its attempts."""
        return self.total_timeout or settings.TOTAL_TIMEOUT

    @property
    def default_parameters(self) -> Parameters:
        return Parameters(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            reasoning_effort=Effort(self.reasoning_effort) if self.reasoning_effort else None,
            reasoning_tokens=self.reasoning_tokens,
            schema=self.schema.value if self.schema else None,
        )

    def target(self) -> Target:
        """Where its requests go, with the key. Raises ApiKeyInvalid if the key is unreadable."""
        try:
            key = self.api_key.reveal()
        except SecretUnreadable:
            raise ApiKeyInvalid(
                f"{self.name}: the stored API key can no longer be decrypted. "
                "An administrator has to enter it again."
            ) from None
        return replace(self.target_without_key(), api_key=key)

    def target_without_key(self) -> Target:
        """The same for showing a request that cannot be sent."""
        return Target(
            name=self.name,
            model=self.model,
            base_url=self.base_url,
            extra_headers=self.extra_headers,
            extra_body=self.extra_body,
            options={
                "request": self.request,
                "response": self.response,
                "uses_responses": self.uses_responses,
            },
        )

    def set_api_key(self, secret: str) -> None:
        self.api_key = EncryptedText.of(secret)

    def begin_free(self) -> None:
        """Set prices of 0 where the kind is free and no price is known (contract P7)."""
        prices = (self.input_price, self.cached_input_price, self.output_price)
        if self.adapter_class.is_free and prices == (None, None, None):
            self.input_price = self.cached_input_price = self.output_price = Decimal(0)

    def take_model(self, model: str, **told: Any) -> list[str]:
        """Use another model, and store it. Returns the names of the fields that changed.

        `told` is its context window, prices and what it can do, None where the provider does not
        tell them: then they stay if it is the same model, and become unknown if it is another.
        """
        unknown: dict[str, Any] = {"capabilities": [], "refused_parameters": []}
        values = {
            name: unknown.get(name) if value is None else value
            for name, value in told.items()
            if value is not None or model != self.model
        }
        former = {name: getattr(self, name) for name in ("model", *told)}
        for name, value in {**values, "model": model}.items():
            setattr(self, name, value)
        self.begin_free()
        changed = [name for name, value in former.items() if getattr(self, name) != value]
        if changed:
            self.save(update_fields=[*changed, "updated_at"])
        return changed

    def duplicate(self) -> "Configuration":
        """A stored copy, not yet active, under a slug of its own.

        The key goes with it: it stays bound to the same host.
        """
        taken = set(Configuration.objects.values_list("slug", flat=True))
        base = f"{self.slug[:85]}-copy"
        slugs = chain([base], (f"{base}-{number}" for number in count(2)))
        copy = copy_of(self)
        copy.slug = next(slug for slug in slugs if slug not in taken)
        copy.name = f"{self.name[:93]} (copy)"
        copy.pk, copy._state.adding = None, True
        copy.is_default = copy.is_active = False
        copy.revision = 0
        copy.save()
        copy.allowed_groups.set(self.allowed_groups.all())
        return copy

    def make_default(self) -> "Configuration | None":
        """Make this the default in place of the one that was, which this gives."""
        with transaction.atomic():
            others = Configuration.objects.filter(is_default=True).exclude(pk=self.pk)
            former = others.first()
            others.update(is_default=False)
            self.is_default = True
            self.save(update_fields=["is_default", "updated_at"])
        return former

    @property
    def price_label(self) -> str:
        """For people: "free", "$0.15 in, $0.60 out per million tokens" or "price unknown"."""
        if self.input_price is None or self.output_price is None:
            return "price unknown"
        if not self.input_price and not self.output_price:
            return "free"
        return (
            f"${_plain(self.input_price)} in, ${_plain(self.output_price)} out per million tokens"
        )


class ConfigurationRevision(models.Model):
    """What a configuration was after somebody changed it. No secret is in it."""

    configuration = models.ForeignKey(
        Configuration, null=True, on_delete=models.SET_NULL, related_name="revisions"
    )
    slug = models.CharField(max_length=100)  # as it was then; stays when the configuration goes
    number = models.PositiveIntegerField()  # from 1 for each configuration
    changed_at = models.DateTimeField(auto_now_add=True)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    changed_by_name = models.CharField(max_length=150, blank=True)
    fields = models.JSONField(default=dict)  # name: value, and whether there is a key

    class Meta:
        ordering = ["configuration", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["configuration", "number"], name="one_revision_per_number"
            )
        ]

    def __str__(self) -> str:
        return f"{self.slug}, revision {self.number}"


def _plain(price: Decimal) -> str:
    text = f"{price:.6f}".rstrip("0").rstrip(".")
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}" if cents else whole


__all__: list[Any] = [
    "AnswerSchema",
    "Configuration",
    "ConfigurationQuerySet",
    "ConfigurationRevision",
]
