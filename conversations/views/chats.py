"""The chat page and what is done with whole sessions."""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from conversations import attachments, branches, budgets, context, planning, sessions, transcript
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.forms import ContextForm, MessageForm, TitleForm, request_data
from conversations.models import ChatSession, Preferences, Run
from conversations.pictures import FORMATS
from conversations.views.access import chat_of, configuration_for, preferences_of
from conversations.views.answers import endpoint, invalid, page, signed_in, wants_page
from providers.adapters.base import Feature
from providers.models import AnswerSchema, Configuration


@require_safe
@page
def home(request: HttpRequest) -> HttpResponse:
    """The chat used last, or a first one."""
    user = signed_in(request)
    return redirect(
        ChatSession.objects.visible_to(user).by_activity().first() or sessions.create(user)
    )


@require_http_methods(["GET", "HEAD", "POST"])
@page
def new_chat(request: HttpRequest) -> HttpResponse:
    """A new session. The page's button gives an empty one that is there already, if any."""
    user = signed_in(request)
    if request.method != "POST":
        return redirect("home")
    if not wants_page(request):
        chat = sessions.create(user)
        return JsonResponse(
            {"session_id": str(chat.pk), "url": chat.get_absolute_url()}, status=201
        )
    mine = ChatSession.objects.visible_to(user).by_activity()
    untouched = mine.filter(messages=None, runs=None, is_renamed=False).first()
    if untouched is None:
        return redirect(sessions.create(user))
    untouched.last_activity_at = timezone.now()
    untouched.save(update_fields=["last_activity_at"])
    return redirect(untouched)


@require_safe
@page
def chat(request: HttpRequest, session_id: UUID) -> HttpResponse:
    return chat_page(request, chat_of(request, session_id))


def chat_page(
    request: HttpRequest, chat: ChatSession, form: MessageForm | None = None, status: int = 200
) -> HttpResponse:
    """The whole page; with a `form` that has errors in place, as an answer to it."""
    entries = transcript.entries(chat)
    return render(
        request,
        "conversations/chat.html",
        {
            **composer(request, chat, form),
            "groups": transcript.sidebar(signed_in(request)),
            "entries": entries,
            "totals": transcript.totals(chat),
            "is_empty": not entries,
            "show_provider_hint": _shows_provider_hint(request),
        },
        status=status,
    )


def composer(
    request: HttpRequest, chat: ChatSession, form: MessageForm | None = None
) -> dict[str, Any]:
    """What `_composer.html` needs."""
    user = signed_in(request)
    configurations = Configuration.objects.usable_by(user)
    usable = list(configurations)
    by_id = {configuration.pk: configuration for configuration in usable}
    return {
        "chat": chat,
        "configurations": usable,
        "current_configuration": by_id.get(chat.configuration_id or 0)
        or configurations.preferred(),
        "form": form or MessageForm(initial=parameters(chat)),
        "running_run": Run.objects.running().filter(session=chat).first(),
        "preferences": preferences_of(user),
        "schemas": list(AnswerSchema.objects.all()),
        "own_schema": chat.schema if chat.schema.startswith("{") else "",
        "prompt_max": settings.PROMPT_MAX_CHARACTERS,
        "seeing": {one.pk for one in usable if one.supports(Feature.VISION)},
        "image_types": ",".join(f"image/{format.lower()}" for format in FORMATS),
        "image_max_bytes": settings.ATTACHMENT_MAX_BYTES,
        "images_max": settings.ATTACHMENTS_PER_MESSAGE,
        "budget": budgets.Outlook.on(budgets.of_person(user.pk, timezone.now())),
    }


def parameters(chat: ChatSession) -> dict[str, Any]:
    """What was used last in a session, under the names of the form's fields."""
    return {
        "configuration_id": chat.configuration_id,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "max_tokens": chat.max_tokens,
        "context_limit": chat.context_limit,
        "schema": chat.schema,
    }


def _shows_provider_hint(request: HttpRequest) -> bool:
    user = signed_in(request)
    if not (user.is_staff and user.has_perm("providers.add_configuration")):
        return False
    return not Configuration.objects.active().exclude(kind="demo").exists()


@require_safe
@endpoint
def sidebar(request: HttpRequest) -> HttpResponse:
    user = signed_in(request)
    current = request.GET.get("current", "")
    chat = next(
        (chat for chat in ChatSession.objects.visible_to(user) if str(chat.pk) == current), None
    )
    groups = transcript.sidebar(user)
    return render(request, "conversations/_sidebar.html", {"groups": groups, "chat": chat})


@require_POST
@page
def rename_chat(request: HttpRequest, session_id: UUID) -> HttpResponse:
    chat = chat_of(request, session_id)
    form = TitleForm(request_data(request))
    if not form.is_valid():
        return invalid(form)
    chat.title = form.cleaned_data["title"]
    chat.is_renamed = True
    chat.save(update_fields=["title", "is_renamed"])
    if wants_page(request):
        return redirect(chat)
    return render(request, "conversations/_title.html", {"chat": chat})


@require_POST
@page
async def delete_chat(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Deletes a session; a run in it is stopped first, so that its usage is known."""
    chat = await in_database(chat_of)(request, session_id)
    # Again after each stop: somebody may have started another run meanwhile.
    while running := await in_database(sessions.delete)(chat):
        await get_engine().stop(running.pk, chat.user_id)
    if wants_page(request):
        return redirect("home")
    return HttpResponse(status=204)


@require_safe
@endpoint
def chat_context(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Which messages the next request would include (contract C2), what it may use at most, and
    what is left of the person's budgets, as HTML."""
    chat = chat_of(request, session_id)
    form = ContextForm(request.GET.dict())
    if not form.is_valid():
        return invalid(form)
    user = signed_in(request)
    configuration = configuration_for(user, form.cleaned_data["configuration_id"], chat)
    asked = form.asked
    branch = branches.before_next(chat)
    max_tokens = planning.max_tokens(asked, configuration)
    selected = context.build(
        branch,
        prompt="",
        system_instructions=chat.system_instructions or configuration.system_instructions,
        limit=planning.context_limit(asked, configuration),
        window=configuration.context_window,
        max_tokens=max_tokens,
        pictures=attachments.of(branch),
        can_see=configuration.supports(Feature.VISION),
    )
    needed = budgets.need(
        selected.input_tokens + form.prompt_tokens,
        max_tokens,
        configuration.prices,
    )
    outlook = budgets.Outlook.on(budgets.of_person(user.pk, timezone.now()), needed)
    return JsonResponse(
        {
            "included": [message.id for message in selected.included],
            "left_out": [
                {"id": message.id, "reason": message.reason} for message in selected.left_out
            ],
            "input_tokens": selected.input_tokens,
            "context_window": configuration.context_window,
            "estimate": {
                "tokens": needed.tokens,
                "cost_usd": None if needed.usd is None else float(needed.usd),
            },
            "budget": render_to_string("conversations/_budget.html", {"budget": outlook}),
        }
    )


@require_POST
@page
def preferences(request: HttpRequest) -> HttpResponse:
    """The person's switches. A checkbox that is not sent is off, as in any form."""
    user = signed_in(request)
    switched_on = request_data(request).get("streams_answers") in (True, "on", "true", "1")
    Preferences.objects.update_or_create(user=user, defaults={"streams_answers": switched_on})
    return redirect("home") if wants_page(request) else HttpResponse(status=204)
