"""Budgets in the admin: who may use how much, and how much of it is gone.

Rights are Django's own: `add`, `change`, `delete` and `view` of budgets. Whose a budget is, and how
often it begins anew, is decided when it is made: what was used is counted by that.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from conversations.budgets import Limit, limits
from conversations.models import ApiToken, Budget

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Budget]
    ModelForm = forms.ModelForm[Budget]
else:
    ModelAdmin, ModelForm = admin.ModelAdmin, forms.ModelForm

FIXED = ("user", "group", "token", "period")
SHOWN = ("used", "under_way", "left", "resets_on")


class BudgetForm(ModelForm):
    """Offers the API tokens that are in use, each with its owner."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "token" in self.fields:
            tokens = ApiToken.objects.filter(revoked_at=None).select_related("user")
            field: Any = self.fields["token"]
            field.queryset = tokens
            field.label_from_instance = lambda token: f"{token} of {token.user}"


class BudgetAdmin(ModelAdmin):
    form = BudgetForm
    list_display = ("__str__", "shown_limits", *SHOWN, "is_active")
    list_filter = ("is_active", "period", "group")
    search_fields = ("user__username", "group__name", "token__name")
    autocomplete_fields = ("user",)
    fieldsets = (
        ("Whose it is", {"fields": ("user", "group", "token")}),
        (
            "How much",
            {
                "fields": ("limit_usd", "limit_tokens", "period", "is_active"),
                "description": "Each request reserves what it may use at most before it is sent, "
                "and is refused where that is not left. A budget counts what is asked from when it "
                "is made.",
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        budgets = Budget.objects.in_period_of(timezone.now())
        return budgets.select_related("user", "group", "token").order_by("pk")

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> Any:
        return (*FIXED, *SHOWN) if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: Budget | None = None) -> Any:
        shown = (("This period", {"fields": SHOWN}),)
        return (*self.fieldsets, *shown) if obj else self.fieldsets

    @admin.display(description="limit")
    def shown_limits(self, budget: Budget) -> SafeString:
        return _lines(budget, lambda limit: limit.words(limit.most))

    @admin.display(description="used")
    def used(self, budget: Budget) -> SafeString:
        return _lines(budget, lambda limit: limit.words(limit.used))

    @admin.display(description="reserved by answers under way")
    def under_way(self, budget: Budget) -> SafeString:
        return _lines(budget, lambda limit: limit.words(limit.reserved))

    @admin.display(description="left")
    def left(self, budget: Budget) -> SafeString:
        return _lines(budget, lambda limit: limit.words(limit.left))

    @admin.display(description="resets on")
    def resets_on(self, budget: Budget) -> str:
        return limits(budget, timezone.now())[0].next_reset


def _lines(budget: Budget, words: Callable[[Limit], str]) -> SafeString:
    """A line for each limit of a budget."""
    found = limits(budget, timezone.now())
    return format_html_join(SafeString("<br>"), "{}", ((words(limit),) for limit in found))
