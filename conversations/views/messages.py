"""Sending, and what is done with single messages."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from conversations import messages, runs, structured, transcript
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.errors import BadValue, BudgetExceeded
from conversations.events import RunEvent
from conversations.forms import MessageForm, ParametersForm, request_data
from conversations.models import Message, Run
from conversations.runs import Started
from conversations.views import chats
from conversations.views.access import chat_of, configuration_for, message_of, preferences_of
from conversations.views.answers import (
    invalid,
    is_htmx,
    page,
    wants_page,
)


@require_POST
@page
async def send(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Stores a message and starts its run; answers at once, or at the end for people who have
    switched streaming off (contract S11, C8)."""

    def check() -> Any:
        chat = chat_of(request, session_id)
        form = MessageForm(request_data(request))
        if not form.is_valid():
            return _invalid(request, chat, form)
        configuration_id = form.cleaned_data["configuration_id"]
        configuration = configuration_for(request.user, configuration_id, chat)
        streams = preferences_of(request.user).streams_answers
        return request.user, chat, configuration, form, streams

    checked = await in_database(check)()
    if isinstance(checked, HttpResponse):
        return checked
    user, chat, configuration, form, streams = checked
    try:
        started = await get_engine().begin(
            lambda owner: runs.start(user, chat, configuration, form.asked, owner)
        )
    except BadValue as error:
        form.add_error(error.field, error.message)
        return await in_database(_invalid)(request, chat, form)
    except BudgetExceeded as error:
        return await in_database(_over_budget)(request, chat, form, error)
    end = None if streams else await _end_of(started.run)
    return await in_database(_sent)(request, started, end)


@require_POST
@page
async def retry(request: HttpRequest, message_id: int) -> HttpResponse:
    """Asks a stored question again."""
    return await _again(request, message_id, Message.Role.USER, runs.retry)


@require_POST
@page
async def continue_answer(request: HttpRequest, message_id: int) -> HttpResponse:
    """Has an answer that was cut off continued, in the same message."""
    return await _again(request, message_id, Message.Role.ASSISTANT, runs.go_on)


async def _again(
    request: HttpRequest, message_id: int, role: Message.Role, verb: Callable[..., Started]
) -> HttpResponse:
    """Starts a run that is about a stored message of this role."""

    def check() -> Any:
        message = message_of(request, message_id)
        if message.role != role:
            raise Http404
        chat = message.session
        # A button that sends nothing asks with what the session used before.
        form = ParametersForm({**chats.parameters(chat), **request_data(request)})
        if not form.is_valid():
            return invalid(form)
        configuration_id = form.cleaned_data["configuration_id"]
        configuration = configuration_for(request.user, configuration_id, chat)
        return request.user, message, configuration, form.asked

    checked = await in_database(check)()
    if isinstance(checked, HttpResponse):
        return checked
    user, message, configuration, asked = checked
    started = await get_engine().begin(
        lambda owner: verb(user, message, configuration, asked, owner)
    )
    return await in_database(_asked_again)(request, started)


async def _end_of(run: Run) -> RunEvent | None:
    """Waits for the end event. The run goes on if the client leaves."""
    async for batch in get_engine().journal.follow(run.pk):
        if batch and batch[-1].is_end:
            return batch[-1]
    return None


def _sent(request: HttpRequest, started: Started, end: RunEvent | None) -> HttpResponse:
    run = started.run
    if is_htmx(request):
        return render(request, "conversations/_turn.html", {"entries": _turn(run, end)})
    if wants_page(request):
        return redirect("chat", run.session_id)
    return _run_json(started, end)


def _asked_again(request: HttpRequest, started: Started) -> HttpResponse:
    run = started.run
    if is_htmx(request):
        entry = transcript.answer_entry(run, run.assistant_message, run.user_message_id)
        return render(request, "conversations/_entry_answer.html", {"entry": entry})
    if wants_page(request):
        return redirect("chat", run.session_id)
    return _run_json(started, None)


def _turn(run: Run, end: RunEvent | None) -> list[transcript.Entry]:
    """The question and its answer, as it is now. A stop may have taken both away."""
    if end is not None:
        run.refresh_from_db()
    question = run.user_message
    answer = transcript.run_entry(run)
    return [
        *([transcript.question_entry(question)] if question else []),
        *([answer] if answer else []),
    ]


def _run_json(started: Started, end: RunEvent | None) -> JsonResponse:
    run = started.run
    return JsonResponse(
        {
            "run_id": str(run.pk),
            "user_message_id": run.user_message_id,
            "events_url": reverse("run_events", args=[run.pk]),
            "stop_url": reverse("stop", args=[run.pk]),
            **(end.fields if end else {}),
        },
        status=201 if started.plan else 200,
    )


def _invalid(request: HttpRequest, chat: Any, form: MessageForm) -> HttpResponse:
    return _form_again(request, chat, form, 422) or invalid(form)


def _over_budget(
    request: HttpRequest, chat: Any, form: MessageForm, error: BudgetExceeded
) -> HttpResponse:
    form.add_error(None, error.message)
    again = _form_again(request, chat, form, error.status)
    if again is None:
        raise error
    if error.retry_after is not None:
        again["Retry-After"] = str(error.retry_after)
    return again


def _form_again(
    request: HttpRequest, chat: Any, form: MessageForm, status: int
) -> HttpResponse | None:
    """The form with its errors in place; None where a program asks, which wants JSON."""
    if is_htmx(request):
        composer = chats.composer(request, chat, form)
        return render(request, "conversations/_composer.html", composer, status=status)
    if wants_page(request):
        return chats.chat_page(request, chat, form, status)
    return None


@require_safe
@page
def message_raw(request: HttpRequest, message_id: int) -> HttpResponse:
    """The text as it was written, before any rendering."""
    message = message_of(request, message_id)
    return HttpResponse(message.content, content_type="text/plain; charset=utf-8")


@require_safe
@page
def message_json(request: HttpRequest, message_id: int) -> HttpResponse:
    """The JSON of an answer that was to be JSON, as a file."""
    message = message_of(request, message_id)
    try:
        value = structured.value(message)
    except ValueError:
        raise Http404 from None
    return HttpResponse(
        json.dumps(value, indent=2, ensure_ascii=False) + "\n",
        content_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="answer-{message.pk}.json"'},
    )


@require_POST
@page
def delete_message(request: HttpRequest, message_id: int) -> HttpResponse:
    """Deletes one message; those that follow it stay and move up."""
    message = message_of(request, message_id)
    messages.delete(message)
    if wants_page(request):
        return redirect("chat", message.session_id)
    return HttpResponse(status=204)
