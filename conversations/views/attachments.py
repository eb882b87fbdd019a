"""Images that people attach to their messages: taken in, shown to who owns them, taken back."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.defaultfilters import filesizeformat
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, quote_etag
from django.views.decorators.http import require_POST, require_safe

from conversations import attachments, pictures
from conversations.background import in_database
from conversations.errors import BadValue, Refusal
from conversations.models import Attachment
from conversations.views.answers import endpoint, page, refused, signed_in

FIELD = "file"
UPLOADS_PER_USER = 8  # at a time, in this process
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}

# Beside the event loop, one at a time: an image may take a second and 300 MB.
_pool = ThreadPoolExecutor(1, thread_name_prefix="images")
_uploads_of: Counter[int] = Counter()  # by user


class TooManyUploads(Refusal):
    status = 429
    code = "TOO_MANY_UPLOADS"
    message = "Too many of your images are being taken in. Wait for those, then go on."
    retry_after = 2


@require_POST
@endpoint
async def upload(request: HttpRequest) -> HttpResponse:
    """Takes in an image (multipart, `file`) that its owner can then send with a message."""
    user, file = await in_database(_received)(request)
    if _uploads_of[user.pk] >= UPLOADS_PER_USER:
        raise TooManyUploads
    if (file.size or 0) > settings.ATTACHMENT_MAX_BYTES:
        most = filesizeformat(settings.ATTACHMENT_MAX_BYTES)
        return refused(413, "TOO_LARGE", f"An image may have {most} at most. Make it smaller.")
    _uploads_of[user.pk] += 1
    try:
        picture = await asyncio.get_running_loop().run_in_executor(
            _pool, pictures.prepared, file, settings.ATTACHMENT_MAX_SIDE
        )
    except pictures.BadPicture as error:
        raise BadValue(FIELD, str(error)) from None
    finally:
        _uploads_of[user.pk] -= 1
        if not _uploads_of[user.pk]:
            del _uploads_of[user.pk]
    kept = await in_database(attachments.keep)(user, file.name or "", picture)
    return JsonResponse(kept.fields, status=201)


def _received(request: HttpRequest) -> tuple[Any, "UploadedFile[Any]"]:
    user = signed_in(request)
    file = request.FILES.get(FIELD)
    if not isinstance(file, UploadedFile):
        raise BadValue(FIELD, "Attach an image.")
    return user, file


@require_safe
@page
def attachment(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """The image, for its owner alone. It never changes."""
    found = _found(request, attachment_id)
    name = f"{PurePath(found.name).stem}{SUFFIXES[found.media_type]}"
    headers = {
        "ETag": quote_etag(found.sha256),
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": content_disposition_header(False, name) or "inline",
        "X-Content-Type-Options": "nosniff",
        # Browsers style the page that they make around an image; the site's policy forbids that.
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }
    known = get_conditional_response(request, etag=headers["ETag"])
    if known is not None:
        return known
    return HttpResponse(bytes(found.data), content_type=found.media_type, headers=headers)


@require_POST
@endpoint
def delete_attachment(request: HttpRequest, attachment_id: UUID) -> HttpResponse:
    """Deletes an image that was not sent. One that was goes with its message."""
    mine = Attachment.objects.visible_to(signed_in(request)).unsent()
    deleted, _ = mine.filter(pk=attachment_id).delete()
    if not deleted:
        raise Http404
    return HttpResponse(status=204)


def _found(request: HttpRequest, attachment_id: UUID) -> Attachment:
    mine = Attachment.objects.visible_to(signed_in(request))
    found: Attachment | None = mine.filter(pk=attachment_id).first()
    if found is None:
        raise Http404
    return found
