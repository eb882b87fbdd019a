"""Configurations in the admin: a form whose key is write-only, and two questions to the provider.

Rights are Django's own: `add`, `change`, `delete` and `view` of configurations. Test connection,
Load models and Use this model are POSTs for those who may change; they work on what is saved.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.forms import Script
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.urls.resolvers import URLPattern
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters

from providers import probe, revisions
from providers.adapters import registry
from providers.adapters.custom import Custom
from providers.custom_form import REQUEST_FIELDS, RESPONSE_FIELDS
from providers.errors import ProviderError
from providers.forms import AnswerSchemaForm, ConfigurationForm, ModelChoiceForm
from providers.models import AnswerSchema, Configuration, ConfigurationQuerySet

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Configuration]
    SchemaModelAdmin = admin.ModelAdmin[AnswerSchema]
else:
    ModelAdmin = SchemaModelAdmin = admin.ModelAdmin

SECRETS = sensitive_post_parameters("api_key", "extra_headers")
ADDRESS_FIELDS = ("name", "slug", "kind", "model", "base_url")
LIMIT_FIELDS = ("connect_timeout", "first_chunk_timeout", "chunk_timeout", "total_timeout")
PRICE_FIELDS = ("input_price", "cached_input_price", "output_price")


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, registry.adapter_class(kind).label) for kind in registry.kinds()]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Configuration]
    ) -> QuerySet[Configuration]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Configuration)
class ConfigurationAdmin(ModelAdmin):
    form = ConfigurationForm
    # The model's; the form has boxes of its own for them.
    exclude = ("api_key", "request", "response")
    list_display = (
        "name",
        "slug",
        "kind",
        "model",
        "shown_host",
        "is_active",
        "is_default",
        "has_key",
        "shown_price",
    )
    list_filter = (KindFilter, "is_active", "is_default")
    ordering = ("-is_default", "name", "pk")
    search_fields = ("name", "slug", "model", "base_url")
    prepopulated_fields: ClassVar = {"slug": ("name",)}
    filter_horizontal = ("allowed_groups",)
    readonly_fields = ("has_key", "header_names")

    class Media:
        js = (Script("js/configuration.js", type="module"),)

    actions = ("activate", "deactivate", "make_default", "duplicate")

    # ---- The list

    @admin.display(description="host")
    def shown_host(self, configuration: Configuration) -> str:
        return configuration.host or "-"

    @admin.display(description="key")
    def has_key(self, configuration: Configuration) -> str:
        if configuration.api_key:
            return "set"
        return "missing" if configuration.adapter_class.needs_key else "not needed"

    @admin.display(description="price")
    def shown_price(self, configuration: Configuration) -> str:
        return configuration.price_label

    @admin.display(description="extra headers")
    def header_names(self, configuration: Configuration) -> str:
        """Their values may be secrets, so those who may only look see the names."""
        return ", ".join(configuration.extra_headers) or "-"

    # ---- The form

    def get_fieldsets(self, request: HttpRequest, obj: Configuration | None = None) -> Any:
        may_write = self.has_change_permission(request, obj) if obj else True
        key = ("api_key", "remove_key") if may_write else ("has_key",)
        return [
            (None, {"fields": (*ADDRESS_FIELDS, *key)}),
            *self._custom_fieldsets(obj, may_write=may_write),
            (
                "Who sees it",
                {
                    "fields": ("is_active", "is_default", "allowed_groups"),
                    "description": "An inactive configuration is never used. The default one is "
                    "chosen in a new chat.",
                },
            ),
            (
                "Answers",
                {
                    "fields": (
                        "system_instructions",
                        "temperature",
                        "top_p",
                        "max_tokens",
                        "reasoning_effort",
                        "reasoning_tokens",
                        "schema",
                        "context_limit",
                    ),
                    "description": "What is left empty is not sent: the provider's own default "
                    "holds.",
                },
            ),
            (
                "Model",
                {
                    "fields": (
                        "context_window",
                        *PRICE_FIELDS,
                        "capabilities",
                        "refused_parameters",
                    ),
                    "description": "Load models fills these in where the provider tells them. "
                    "An empty price is unknown, and so is what an answer costs; 0 is free.",
                },
            ),
            (
                "Time limits",
                {
                    "fields": LIMIT_FIELDS,
                    "classes": ("collapse",),
                    "description": "Empty for those of the server.",
                },
            ),
            (
                "More of the request",
                {
                    "fields": (
                        "uses_responses",
                        "extra_headers" if may_write else "header_names",
                        "extra_body",
                    ),
                    "classes": ("collapse",),
                },
            ),
        ]

    def _custom_fieldsets(self, obj: Configuration | None, *, may_write: bool) -> Any:
        """Those of the kind custom. A script hides them for other kinds, which may be chosen."""
        if not may_write:
            shown = {"fields": ("request", "response")}
            return [("Custom endpoint", shown)] if obj and obj.kind == Custom.kind else []
        return [
            (
                "Custom endpoint: what is asked",
                {
                    "fields": REQUEST_FIELDS,
                    "classes": ("custom-endpoint",),
                    "description": format_html(
                        'Only for the kind custom. <a href="{}">How to describe an endpoint</a>, '
                        "with an example.",
                        reverse("help_page", args=["providers"]),
                    ),
                },
            ),
            (
                "Custom endpoint: what is read",
                {
                    "fields": RESPONSE_FIELDS,
                    "classes": ("custom-endpoint",),
                    "description": "Only for the kind custom. Test connection asks the endpoint "
                    "and shows what was read.",
                },
            ),
        ]

    @method_decorator(SECRETS)
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: Configuration, form: Any, change: bool) -> None:
        becomes_default = obj.is_default
        obj.is_default = False  # only one row can have it, so the former one loses it first
        super().save_model(request, obj, form, change)
        if becomes_default:
            self._make_default(request, obj)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        # Now all of it is stored: one revision, however many steps it took.
        revisions.record(form.instance, self._person(request), replaced=form.changed_data)

    def _make_default(self, request: HttpRequest, obj: Configuration) -> None:
        former = obj.make_default()
        if former is not None:
            revisions.record(former, self._person(request))

    def _person(self, request: HttpRequest) -> AbstractBaseUser | None:
        return request.user if isinstance(request.user, AbstractBaseUser) else None

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> list[dict[str, dict[str, list[str]]]]:
        """The history says that a key was set, at the first time too."""
        message = super().construct_change_message(request, form, formsets, add)
        if add and form.cleaned_data.get("api_key"):
            message.append({"changed": {"fields": ["API key"]}})
        return message

    # ---- Actions of the list

    @admin.action(description="Activate", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: ConfigurationQuerySet) -> None:
        changed = self._set(request, queryset.filter(is_active=False), is_active=True)
        self.message_user(request, f"Activated: {changed}.", messages.SUCCESS)

    @admin.action(description="Deactivate", permissions=["change"])
    def deactivate(self, request: HttpRequest, queryset: ConfigurationQuerySet) -> None:
        # An inactive default would keep the place of one that can be used.
        rows = queryset.filter(is_active=True)
        had_default = rows.filter(is_default=True).exists()
        changed = self._set(request, rows, is_active=False, is_default=False)
        self.message_user(request, f"Deactivated: {changed}.", messages.SUCCESS)
        if had_default:
            now = Configuration.objects.active().preferred()
            self.message_user(
                request,
                f"There is no default any more; new chats begin with {now or 'no model at all'}. "
                "Choose another one and make it the default.",
                messages.WARNING,
            )

    @admin.action(description="Make default", permissions=["change"])
    def make_default(self, request: HttpRequest, queryset: ConfigurationQuerySet) -> None:
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one: only one can be the default.", messages.ERROR)
        elif not chosen[0].is_active:
            self.message_user(
                request, f"{chosen[0]} is not active. Activate it first.", messages.ERROR
            )
        else:
            with transaction.atomic():
                self._make_default(request, chosen[0])
                self._log(request, chosen[0], ["default"])
            self.message_user(request, f"{chosen[0]} is the default now.", messages.SUCCESS)

    @admin.action(description="Duplicate", permissions=["add"])
    def duplicate(self, request: HttpRequest, queryset: ConfigurationQuerySet) -> None:
        for original in queryset:
            with transaction.atomic():
                copy = original.duplicate()
                revisions.record(copy, self._person(request))
            self.log_addition(request, copy, [{"added": {}}])
            self.message_user(
                request,
                f"{original} was duplicated as {copy.slug}, with the key for the same host. "
                "It is not active yet.",
                messages.SUCCESS,
            )

    def _set(self, request: HttpRequest, queryset: ConfigurationQuerySet, **values: Any) -> str:
        rows = list(queryset)
        for row in rows:
            for name, value in values.items():
                setattr(row, name, value)
            with transaction.atomic():
                row.save(update_fields=[*values, "updated_at"])
                self._log(request, row, ["active"])
        return ", ".join(str(row) for row in rows) or "none, they were already"

    def _log(self, request: HttpRequest, obj: Configuration, fields: list[str]) -> None:
        revisions.record(obj, self._person(request))
        self.log_change(request, obj, [{"changed": {"fields": fields}}])

    # ---- Questions to the provider

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"<path:object_id>/{address}/",
                self.admin_site.admin_view(self._posted(view)),
                name=f"providers_configuration_{address}",
            )
            for address, view in (
                ("test", self.test_connection),
                ("models", self.load_models),
                ("use-model", self.use_model),
            )
        ]
        history = path(
            "<path:object_id>/revisions/",
            self.admin_site.admin_view(self.show_revisions),
            name="providers_configuration_revisions",
        )
        return [history, *own, *super().get_urls()]

    def _posted(
        self, view: Callable[[HttpRequest, Configuration], HttpResponse]
    ) -> Callable[[HttpRequest, str], HttpResponse]:
        """`view` for a POST by someone who may change the configuration of that address."""

        def checked(request: HttpRequest, object_id: str) -> HttpResponse:
            if request.method != "POST":
                return HttpResponseNotAllowed(["POST"])
            configuration = self.get_object(request, unquote(object_id))
            if not self.has_change_permission(request, configuration):
                raise PermissionDenied
            if configuration is None:
                raise Http404
            return view(request, configuration)

        return checked

    def test_connection(self, request: HttpRequest, configuration: Configuration) -> HttpResponse:
        result = probe.run(probe.test(configuration), request.user)
        took = f"{result.seconds:.2f} s"
        if not result.ok:
            self.message_user(
                request, f"{result.code} after {took}: {result.message}", messages.ERROR
            )
        elif result.code:
            self.message_user(request, f"{result.code}: {result.message}", messages.WARNING)
        else:
            self.message_user(request, f"{result.message} ({took})", messages.SUCCESS)
        for detail in result.details:
            self.message_user(request, detail, messages.INFO)
        return self._back(configuration)

    def load_models(self, request: HttpRequest, configuration: Configuration) -> HttpResponse:
        try:
            found = probe.run(probe.models(configuration))
        except ProviderError as error:
            self.message_user(request, f"{error.code}: {probe.advice(error)}", messages.ERROR)
            return self._back(configuration)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Models of {configuration}",
            "opts": self.opts,
            "original": configuration,
            "models": found,
        }
        return TemplateResponse(request, "admin/providers/configuration/models.html", context)

    def use_model(self, request: HttpRequest, configuration: Configuration) -> HttpResponse:
        """Take over a model from the list: its name, and window and prices where they are told."""
        form = ModelChoiceForm(request.POST)
        if not form.is_valid():
            for field, problems in form.errors.get_json_data().items():
                text = " ".join(problem["message"] for problem in problems)
                self.message_user(request, f"{field}: {text}", messages.ERROR)
        elif self._takes_model(request, configuration, form.cleaned_data):
            self.message_user(request, f"The model is {configuration.model} now.", messages.SUCCESS)
        else:
            self.message_user(request, "Nothing had to be changed.", messages.INFO)
        return self._back(configuration)

    @transaction.atomic
    def _takes_model(
        self, request: HttpRequest, configuration: Configuration, told: dict[str, Any]
    ) -> bool:
        fields = configuration.take_model(**told)
        if fields:
            self._log(request, configuration, fields)
        return bool(fields)

    # ---- What it was before

    def show_revisions(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Who changed what, and when, for those who may look at the configuration."""
        configuration = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, configuration):
            raise PermissionDenied
        if configuration is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "title": f"Revisions of {configuration}",
            "opts": self.opts,
            "original": configuration,
            "history": revisions.history(configuration),
        }
        return TemplateResponse(request, "admin/providers/configuration/revisions.html", context)

    def _back(self, configuration: Configuration) -> HttpResponseRedirect:
        return HttpResponseRedirect(
            reverse("admin:providers_configuration_change", args=[configuration.pk])
        )


@admin.register(AnswerSchema)
class AnswerSchemaAdmin(SchemaModelAdmin):
    form = AnswerSchemaForm
    list_display = ("name", "slug", "description")
    search_fields = ("name", "slug", "description")
    prepopulated_fields: ClassVar = {"slug": ("name",)}
