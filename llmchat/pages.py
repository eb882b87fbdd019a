"""Pages that belong to no app: help, health, and what is shown when something is wrong."""

import hashlib
import json
import re
from typing import Any

import markdown
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import (
    add_never_cache_headers,
    get_conditional_response,
    patch_cache_control,
)
from django.utils.http import quote_etag
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_safe

from conversations.views.answers import refused, wants_page
from llmchat.health import OK, look
from llmchat.openapi import description
from llmchat.openapi.page import Reader

DOCS = settings.BASE_DIR / "docs"
FIRST_PAGE = "using"
DESCRIPTION_AGE = 300  # s that others may keep it without asking again
EXTENSIONS = ["toc", "fenced_code", "codehilite", "admonition", "tables", "sane_lists"]
LINK_TO_PAGE = re.compile(r'href="([\w-]+)\.md(#[^"]*|)"')
OPTIONS = {"codehilite": {"css_class": "highlight", "guess_lang": False}}


@require_safe
def help_page(request: HttpRequest, name: str = FIRST_PAGE) -> HttpResponse:
    """The project's own docs. `markdown` may render them as they are: we wrote them."""
    titles = {path.stem: _title(path.read_text()) for path in sorted(DOCS.glob("*.md"))}
    if name not in titles:
        raise Http404
    text = (DOCS / f"{name}.md").read_text()
    content = markdown.markdown(text, extensions=EXTENSIONS, extension_configs=OPTIONS)
    # Links between the files lead to each other on a code host too; here they are pages.
    content = LINK_TO_PAGE.sub(
        lambda link: f'href="{reverse("help_page", args=[link[1]])}{link[2]}"', content
    )
    ordered = sorted(titles.items(), key=lambda page: (page[0] != FIRST_PAGE, page[1]))
    return render(
        request,
        "help.html",
        {
            "pages": ordered,
            "page_title": titles[name],
            "content": mark_safe(content),  # noqa: S308 - from the repository, not from a user
        },
    )


def _title(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ").strip()


@require_safe
def api_docs(request: HttpRequest) -> HttpResponse:
    """What programs can call, for people to read."""
    return render(request, "api_docs.html", {"api": Reader(description())})


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """The same as an OpenAPI document. Anybody may read and keep it: there is no secret in it."""
    document = json.dumps(description(), ensure_ascii=False).encode()
    response = HttpResponse(document, content_type="application/json")
    response["ETag"] = quote_etag(hashlib.sha256(document).hexdigest())
    patch_cache_control(response, public=True, max_age=DESCRIPTION_AGE)
    return get_conditional_response(request, etag=response["ETag"], response=response) or response


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """200 if this process can do its work, 503 with the part that is missing if not; within 2 s."""
    told = await look()
    response = JsonResponse(told, status=200 if told["status"] == OK else 503)
    add_never_cache_headers(response)
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _wrong(request, 400, "BAD_REQUEST", "The server cannot make sense of this request.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _wrong(request, 403, "FORBIDDEN", "You may not do this.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _wrong(request, 404, "NOT_FOUND", "There is nothing here that you may see.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A POST that does not prove to come from our own page."""
    return _wrong(
        request,
        403,
        "CSRF_FAILED",
        "This request did not come from a current page. Reload the page and try again.",
        template="403_csrf.html",
    )


def server_error(request: HttpRequest) -> HttpResponse:
    return _wrong(
        request, 500, "INTERNAL_ERROR", "Something went wrong; the server's log has the details."
    )


def _wrong(
    request: HttpRequest, status: int, code: str, message: str, template: str = ""
) -> HttpResponse:
    if not wants_page(request):
        return refused(status, code, message)
    context: dict[str, Any] = {"message": message}
    return render(request, template or _template(status), context, status=status)


def _template(status: int) -> str:
    return f"{404 if status == 400 else status}.html"
