"""The stream test page: one run without a session, and what the way does to a stream."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from conversations import runs, sse
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.forms import MessageForm, request_data
from conversations.models import Origin
from conversations.planning import Source
from conversations.views import streams
from conversations.views.access import configuration_for
from conversations.views.answers import endpoint, invalid, page, signed_in, wants_page
from monitor import delivery
from providers.models import Configuration

STREAM_TEST = Source(Origin.STREAM_TEST)
PROMPT = "Write three short paragraphs about how a river finds its way to the sea."


@require_http_methods(["GET", "HEAD", "POST"])
@page
async def stream_test(request: HttpRequest) -> HttpResponse:
    """The page; a POST starts a run that belongs to no session (contract M3)."""
    if request.method != "POST":
        return await in_database(_page)(request)
    checked = await in_database(_check)(request)
    if isinstance(checked, HttpResponse):
        return checked
    user, configuration, asked = checked
    started = await get_engine().begin(
        lambda owner: runs.start_alone(user, configuration, asked, owner)
    )
    run_id = started.run.pk
    if wants_page(request):  # without a script, what is stored of it is all that can be shown
        return redirect("run_inspector", run_id)
    return JsonResponse(
        {
            "run_id": str(run_id),
            "events_url": reverse("run_events", args=[run_id]),
            "stop_url": reverse("stop", args=[run_id]),
            "inspector_url": reverse("run_inspector", args=[run_id]),
        },
        status=201 if started.plan else 200,
    )


def _page(request: HttpRequest) -> HttpResponse:
    usable = Configuration.objects.usable_by(signed_in(request))
    return render(
        request,
        "monitor/stream_test.html",
        {
            "active": "test",
            "configurations": list(usable.order_by("name", "pk")),
            "preferred": usable.preferred(),
            "prompt": PROMPT,
            "most_characters": settings.PROMPT_MAX_CHARACTERS,
            "probe": delivery.Probe(),
            "heartbeat": settings.HEARTBEAT_INTERVAL,
        },
    )


def _check(request: HttpRequest) -> Any:
    user = signed_in(request)
    form = MessageForm(request_data(request))
    if not form.is_valid():
        return invalid(form)
    configuration = configuration_for(user, form.cleaned_data["configuration_id"], None)
    return user, configuration, replace(form.asked, source=STREAM_TEST, attachments=())


@require_GET
@endpoint
async def delivery_test(request: HttpRequest) -> HttpResponseBase:
    """A stream that calls no provider, for measuring how it arrives (`delivery.frames`)."""
    user = await in_database(signed_in)(request)
    form = delivery.ProbeForm(request.GET.dict())
    if not form.is_valid():
        return invalid(form)
    streams.check_room(user.pk)
    return sse.response(_counted(request, user.pk, form.probe))


async def _counted(
    request: HttpRequest, user_id: int, probe: delivery.Probe
) -> AsyncIterator[bytes]:
    rights = streams.Rights(lambda: streams.is_signed_in(request))
    with streams.counted(user_id):
        async for frame in delivery.frames(probe):
            yield frame
            if not await rights.hold():
                return
