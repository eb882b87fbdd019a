"""GET /v1/models and /v1/models/<slug>: the configurations that the caller may use."""

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from conversations.api.callers import with_token
from conversations.api.completions import configuration_named
from conversations.api.errors import Problem, Refused, answering, openai_response
from conversations.background import in_database
from providers.adapters.base import JSONObject
from providers.models import Configuration


@csrf_exempt  # so that a POST gets the error object of this API too
@answering(openai_response)
async def models(request: HttpRequest) -> HttpResponseBase:
    """All of them."""

    def found() -> list[JSONObject]:
        _check_method(request)
        return [_told(one) for one in with_token(request).configurations]

    return JsonResponse({"object": "list", "data": await in_database(found)()})


@csrf_exempt  # so that a POST gets the error object of this API too
@answering(openai_response)
async def model(request: HttpRequest, slug: str) -> HttpResponseBase:
    """One of them."""

    def found() -> JSONObject:
        _check_method(request)
        return _told(configuration_named(with_token(request), slug))

    return JsonResponse(await in_database(found)())


def _check_method(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise Refused(
            Problem(
                405,
                "METHOD_NOT_ALLOWED",
                f"This address takes GET, not {request.method}.",
                headers={"Allow": "GET, HEAD"},
            )
        )


def _told(configuration: Configuration) -> JSONObject:
    """A model object of OpenAI's API, with what else helps to choose one."""
    return {
        "id": configuration.slug,
        "object": "model",
        "created": int(configuration.created_at.timestamp()),
        "owned_by": configuration.kind,
        "name": configuration.name,
        "context_window": configuration.context_window,
    }


@csrf_exempt
@answering(openai_response)
async def unknown(request: HttpRequest, rest: str) -> HttpResponseBase:
    """An address of OpenAI's API that there is not here, told as its clients expect it."""
    raise Refused(
        Problem(404, "unknown_url", f"There is no {request.method} /v1/{rest[:100]} here.")
    )
