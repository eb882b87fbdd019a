"""`/metrics`, for programs with the token and for staff."""

import asyncio
import hmac

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from conversations.background import in_database
from conversations.views.answers import endpoint, signed_in
from monitor.metrics import CONTENT_TYPE, exposition, gauges


@require_safe
@endpoint
async def metrics(request: HttpRequest) -> HttpResponse:
    """The figures of this process in Prometheus' text format (contract M6).

    401 for strangers and wrong tokens, 404 for people who are not staff. With the token nothing is
    asked of the database: what is wrong can be seen while it is away.
    """
    if not _has_token(request):
        await in_database(_check_staff)(request)
    text = await asyncio.to_thread(exposition, list(gauges()))
    return HttpResponse(text, content_type=CONTENT_TYPE)


def _has_token(request: HttpRequest) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    wanted: str = settings.METRICS_TOKEN
    # Compared as bytes: of a text that is not ASCII the comparison would raise.
    is_same = hmac.compare_digest(given.strip().encode(), wanted.encode())
    return bool(wanted) and kind.lower() == "bearer" and is_same


def _check_staff(request: HttpRequest) -> None:
    if not signed_in(request).is_staff:
        raise Http404
