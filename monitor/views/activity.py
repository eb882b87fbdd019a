"""The list of all runs that a person may see, and its exports."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_safe

from conversations.background import in_database
from conversations.views import streams
from conversations.views.answers import endpoint, invalid, is_htmx, page, signed_in
from monitor import activity as runs
from monitor import exports
from monitor.forms import ORIGINS, FilterForm
from monitor.views.choices import configurations_for, people_for


@require_safe
@page
def activity_list(request: HttpRequest) -> HttpResponse:
    """A page of the list; for HTMX the part with the rows. The filters are in the address."""
    user = signed_in(request)
    form = FilterForm(request.GET.dict())
    shown: dict[str, Any] = {"active": "activity", "form": form, "is_filtered": bool(form.told)}
    if form.is_valid():
        before, after = form.position
        found = runs.page(user, form.filters, before=before, after=after)
        with_run, with_session = runs.details(user, found.rows)
        shown |= {
            "rows": found.rows,
            "with_run": with_run,
            "with_session": with_session,
            "origins": ORIGINS,
            "newer": _address(form, after=found.newer) if found.newer else "",
            "older": _address(form, before=found.older) if found.older else "",
            "csv": _address(form, "activity_csv"),
            "json": _address(form, "activity_json"),
        }
    if not is_htmx(request):
        shown |= {
            "configurations": configurations_for(user, form["configuration"].value()),
            "people": people_for(user),
            "time_zone": timezone.get_current_timezone_name(),
            "from_value": _box(form, "from"),
            "to_value": _box(form, "to"),
        }
    template = "monitor/_activity_rows.html" if is_htmx(request) else "monitor/activity.html"
    response = render(request, template, shown, status=422 if form.errors else 200)
    if form.is_valid() and not any(form.position):
        # Without the fields that were left empty.
        response["HX-Push-Url"] = _address(form)
    return response


def _box(form: FilterForm, name: str) -> str:
    """What the box for a moment shows. It knows no time zones: it has that of the server."""
    moment = form.cleaned_data.get(name)
    if isinstance(moment, datetime):
        return timezone.localtime(moment).strftime("%Y-%m-%dT%H:%M")
    return str(form.data.get(name, ""))


def _address(form: FilterForm, name: str = "activity", **position: runs.Position | None) -> str:
    told = form.told | {key: str(value) for key, value in position.items()}
    return reverse(name) + (f"?{urlencode(told)}" if told else "")


@require_GET
@endpoint
async def activity_export(request: HttpRequest, kind: str) -> HttpResponseBase:
    """The whole list as a file, with the same filters; for plain people their own runs."""
    user = await in_database(signed_in)(request)
    form = FilterForm(request.GET.dict())
    if not form.is_valid():
        return invalid(form)
    streams.check_room(user.pk)
    format = {"csv": exports.CSV, "json": exports.JSON}[kind]
    name = f"llmchat-activity-{datetime.now(UTC):%Y-%m-%d}.{kind}"
    is_allowed = partial(streams.is_signed_in, request)
    return StreamingHttpResponse(
        _counted(user.pk, exports.stream(user.pk, form.filters, format, is_allowed)),
        content_type=format.content_type,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
            # A proxy that collects it first would make people wait for all of it.
            "X-Accel-Buffering": "no",
        },
    )


async def _counted(user_id: int, parts: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """An export counts among the streams that a person may have open."""
    with streams.counted(user_id):
        async with aclosing(parts):
            async for part in parts:
                yield part
