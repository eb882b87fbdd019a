"""How requests are refused, in the shapes of the app (contract S12), OpenAI and Anthropic."""

from typing import Final

from conversations.api.anthropic_answer import ERROR_TYPES
from conversations.api.errors import QUOTAS, STATUSES, TYPES
from llmchat.openapi.shapes import (
    COUNT,
    TEXT,
    JSONObject,
    answer,
    array,
    constant,
    header,
    maybe,
    one_of,
    record,
    ref,
    told,
)

SCHEMAS: Final = {
    "Error": record(
        {
            "error": record(
                {"code": told(TEXT, "For programs."), "message": told(TEXT, "For people.")}
            )
        },
        "Why nothing was done.",
    ),
    "InvalidFields": record(
        {
            "errors": {
                "type": "object",
                "additionalProperties": array(TEXT, minItems=1),
                "minProperties": 1,
            }
        },
        "What is wrong with each field; `__all__` stands for the fields together.",
    ),
    "OpenAIError": record(
        {
            "error": record(
                {
                    "message": TEXT,
                    "type": one_of(
                        [
                            "invalid_request_error",
                            "server_error",
                            "insufficient_quota",
                            *TYPES.values(),
                        ]
                    ),
                    "param": told(maybe(TEXT), "The place of a bad value: `messages[0].role`."),
                    "code": told(TEXT, f"What happened: for instance {', '.join(QUOTAS)}."),
                }
            )
        },
        "OpenAI's error object.",
    ),
    "AnthropicError": record(
        {
            "type": constant("error"),
            "error": record(
                {
                    "type": one_of(["invalid_request_error", "api_error", *ERROR_TYPES.values()]),
                    "message": TEXT,
                    "code": TEXT,
                }
            ),
            "request_id": told(maybe(TEXT), "The id of the run, if one had started."),
        },
        "Anthropic's error object.",
    ),
}

RETRY_AFTER: Final = {"Retry-After": header(COUNT, "Seconds until it may go better.")}
# What each status means at the app's own addresses, and an example of its code.
APP: Final = {
    400: ("The request cannot be read.", "UNREADABLE", "The body is not valid JSON."),
    401: (
        "Nobody is signed in, or the token is unknown.",
        "NOT_SIGNED_IN",
        "Sign in first; your session may have ended.",
    ),
    403: (
        "It did not come from the app's own page, or without its CSRF token.",
        "CSRF_FAILED",
        "This request did not come from a current page. Reload the page and try again.",
    ),
    404: (
        "There is no such thing, or it is somebody else's.",
        "NOT_FOUND",
        "There is nothing here that you may see.",
    ),
    409: (
        "It does not go together with what is there already.",
        "RUN_IN_PROGRESS",
        "This chat is still writing an answer. Wait for its end, or stop it first.",
    ),
    413: (
        "It is too much for one request.",
        "TOO_LARGE",
        "This is more than the server takes in one request.",
    ),
    429: (
        "A limit or a budget is reached. `Retry-After` says how long to wait, where it helps.",
        "TOO_MANY_RUNS",
        "Too many of your answers are being written. Wait until one has ended.",
    ),
    503: (
        "The server is restarting, or cannot store anything; `Retry-After` says how long to wait.",
        "STORAGE_UNAVAILABLE",
        "The server cannot store anything right now. Try again in a moment.",
    ),
}
PROGRAMS: Final = {
    400: "A bad value, or one that the provider refused.",
    401: "The token is missing, unknown, expired or revoked.",
    404: "There is no such model that this token may use.",
    405: "The address takes another method.",
    409: "The idempotency key stands for another request.",
    413: "It is too much for one request.",
    429: "A limit or a budget is reached: of the person, or at the provider.",
    500: "A defect of the server.",
    502: "The provider failed: it is offline, refused its key or has no such model.",
    503: "The provider is overloaded, or the server is restarting.",
    504: "The provider took too long.",
}


def _codes(status: int) -> str:
    codes = [code for code, its in STATUSES.items() if its == status]
    return f" Codes of the provider's trouble: {', '.join(codes)}." if codes else ""


def _app(status: int, words: str, code: str, message: str) -> JSONObject:
    return answer(
        words,
        ref("Error"),
        example={"error": {"code": code, "message": message}},
        headers=RETRY_AFTER if status in (429, 503) else None,
    )


def _program(status: int, words: str, schema: str) -> JSONObject:
    return answer(
        words + _codes(status),
        ref(schema),
        headers=RETRY_AFTER if status in (429, 503) else None,
    )


RESPONSES: Final = {
    **{f"App{status}": _app(status, *words) for status, words in APP.items()},
    "App422": answer(
        "Bad values; nothing was stored.",
        ref("InvalidFields"),
        example={"errors": {"prompt": ["Write a message first."]}},
    ),
    **{
        f"OpenAI{status}": _program(status, words, "OpenAIError")
        for status, words in PROGRAMS.items()
    },
    # What the plain stream tells of the provider's trouble, which has the app's own shape.
    **{
        f"Failed{status}": answer(PROGRAMS[status] + _codes(status), ref("Error"))
        for status in (500, 502, 504)
    },
    **{
        f"Anthropic{status}": _program(status, words, "AnthropicError")
        for status, words in PROGRAMS.items()
    },
}
