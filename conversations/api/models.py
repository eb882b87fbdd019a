"""GET /v1/models and /v1/models/<slug>: the configurations that the caller may use.

Each object and the list have the fields of OpenAI's API and those of Anthropic's, as the clients of
both ask at the same address. Sources: their API references, "List models".
"""

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from conversations.api.callers import with_key
from conversations.api.completions import configuration_named
from conversations.api.errors import (
    Problem,
    Refused,
    answering,
    check_method,
    openai_response,
)
from conversations.background import in_database
from providers.adapters.base import JSONObject
from providers.models import Configuration


@csrf_exempt  # so that a POST gets the error object of this API too
@answering(openai_response)
async def models(request: HttpRequest) -> HttpResponseBase:
    """All of them."""

    def found() -> list[JSONObject]:
        check_method(request, "GET", "HEAD")
        return [_told(one) for one in with_key(request).configurations]

    data = await in_database(found)()
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return JsonResponse(
        {
            "object": "list",
            "data": data,
            "has_more": False,  # of this, and the ends, only Anthropic's clients ask
            "first_id": None,
            "last_id": None,
            **ends,
        }
    )


@csrf_exempt  # so that a POST gets the error object of this API too
@answering(openai_response)
async def model(request: HttpRequest, slug: str) -> HttpResponseBase:
    """One of them."""

    def found() -> JSONObject:
        check_method(request, "GET", "HEAD")
        return _told(configuration_named(with_key(request), slug))

    return JsonResponse(await in_database(found)())


def _told(configuration: Configuration) -> JSONObject:
    """A model object of both APIs, with what else helps to choose one."""
    return {
        "id": configuration.slug,
        "object": "model",
        "created": int(configuration.created_at.timestamp()),
        "owned_by": configuration.kind,
        "name": configuration.name,
        "context_window": configuration.context_window,
        "type": "model",
        "display_name": configuration.name,
        "created_at": configuration.created_at.isoformat(),
        "max_input_tokens": configuration.context_window,
        "lifecycle": "active",
    }


@csrf_exempt
@answering(openai_response)
async def unknown(request: HttpRequest, rest: str) -> HttpResponseBase:
    """An address of OpenAI's API that there is not here, told as its clients expect it."""
    raise Refused(
        Problem(404, "unknown_url", f"There is no {request.method} /v1/{rest[:100]} here.")
    )
