"""API tokens of a person: made, shown once, listed and revoked. Staff see everybody's."""

from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from conversations import tokens as verbs
from conversations.forms import no_broken_text, request_data
from conversations.models import ApiToken
from conversations.views.answers import is_htmx, page, signed_in, wants_page
from providers.models import Configuration, ConfigurationQuerySet

MOST_TOKENS: Final = 100  # of a person, that can be used
MANAGE: Final = "conversations.change_apitoken"  # the permission to revoke those of others
LIFETIMES: Final = [
    ("30", "30 days"),
    ("90", "90 days"),
    ("365", "1 year"),
    ("", "No end"),
]


class TokenForm(forms.Form):
    """What a new token is to be. `configurations` are slugs; `days` says how long it is good."""

    name = forms.CharField(max_length=100, validators=[no_broken_text])
    configurations = forms.ModelMultipleChoiceField(
        Configuration.objects.none(), required=False, to_field_name="slug"
    )
    days = forms.ChoiceField(choices=LIFETIMES, required=False)
    monthly_usd = forms.DecimalField(
        required=False, min_value=Decimal("0.0001"), max_digits=12, decimal_places=4
    )

    def __init__(self, usable: ConfigurationQuerySet, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen: Any = self.fields["configurations"]
        chosen.queryset = usable

    def clean_name(self) -> str:
        return " ".join(self.cleaned_data["name"].split())

    @property
    def expires_at(self) -> Any:
        """The moment from which it opens nothing, None for no end."""
        days = self.cleaned_data["days"]
        return timezone.now() + timedelta(days=int(days)) if days else None


@require_http_methods(["GET", "HEAD", "POST"])
@page
def tokens(request: HttpRequest) -> HttpResponse:
    """The page; a POST makes a token, whose secret is in the answer and nowhere else."""
    user = signed_in(request)
    usable = Configuration.objects.usable_by(user)
    if request.method != "POST":
        return _page(request, TokenForm(usable, initial={"days": "90"}))
    form = TokenForm(usable, _submitted(request))
    if form.is_valid() and ApiToken.objects.visible_to(user).usable().count() >= MOST_TOKENS:
        form.add_error(None, f"You have {MOST_TOKENS} tokens. Revoke one that you do not need.")
    if not form.is_valid():
        return _page(request, form, status=422) if _wants_html(request) else _invalid(form)
    made, secret = verbs.make(
        user,
        form.cleaned_data["name"],
        form.cleaned_data["configurations"],
        form.expires_at,
        form.cleaned_data["monthly_usd"],
    )
    if _wants_html(request):
        fresh = TokenForm(usable, initial={"days": "90"})
        return _page(request, fresh, made=made, secret=secret, status=201)
    return JsonResponse({"id": made.pk, "name": made.name, "token": secret}, status=201)


@require_POST
@page
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Ends a token at once: one's own, or for staff who may change tokens anybody's."""
    user = signed_in(request)
    found = ApiToken.objects.all() if user.has_perm(MANAGE) else ApiToken.objects.visible_to(user)
    token = found.filter(pk=token_id).select_related("user").first()
    if token is None:
        raise Http404
    verbs.revoke(token)
    if is_htmx(request):
        return _page(request, TokenForm(Configuration.objects.usable_by(user)))
    return redirect("tokens") if wants_page(request) else HttpResponse(status=204)


def _submitted(request: HttpRequest) -> Any:
    if request.content_type != "application/json":
        return request.POST
    return request_data(request)


def _wants_html(request: HttpRequest) -> bool:
    return is_htmx(request) or wants_page(request)


def _invalid(form: TokenForm) -> JsonResponse:
    return JsonResponse({"errors": form.errors}, status=422)


def _page(
    request: HttpRequest,
    form: TokenForm,
    made: ApiToken | None = None,
    secret: str = "",
    status: int = 200,
) -> HttpResponse:
    """The page, or for HTMX the part of it that changes."""
    user = signed_in(request)
    shown = ApiToken.objects.select_related("user").prefetch_related("configurations", "budgets")
    context = {
        "form": form,
        "made": made,
        "secret": secret,
        "own": shown.visible_to(user),
        "others": shown.exclude(user=user) if user.is_staff else None,
        "may_revoke_all": user.has_perm(MANAGE),
        "api_address": request.build_absolute_uri("/v1"),
    }
    part = "conversations/_tokens.html" if is_htmx(request) else "conversations/tokens.html"
    return render(request, part, context, status=status)
