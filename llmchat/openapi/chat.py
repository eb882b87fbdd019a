"""Sessions, messages, images, and the runs in them."""

from typing import Any, Final

from django.conf import settings

from conversations.forms import (
    ContextForm,
    MessageForm,
    ParametersForm,
    ReplayForm,
    TitleForm,
)
from llmchat.openapi.events import RUN_EVENTS
from llmchat.openapi.shapes import (
    COUNT,
    FLAG,
    FORM,
    ID,
    JSON,
    NUMBER,
    PAGE,
    PATH,
    SESSION,
    TEXT,
    UUID,
    JSONObject,
    answer,
    array,
    body,
    in_query,
    joined,
    maybe,
    of_form,
    one_of,
    operation,
    parameter,
    record,
    ref,
    responses,
    stream,
    told,
)

EXAMPLE_ID: Final = "6f2d0c1e-0f4e-4c51-9a55-1c9f0a1f7c3d"
SESSION_ID: Final = parameter("path", "session_id", UUID, "The id of a session.")
MESSAGE_ID: Final = parameter("path", "message_id", ID, "The id of a message.")
ATTACHMENT_ID: Final = parameter("path", "attachment_id", UUID, "The id of an image.")
RUN_ID: Final = parameter("path", "run_id", UUID, "The id of a run.")
EVENT_ID: Final = {"type": "string", "pattern": "^[0-9a-f-]{36}:[0-9]{1,9}$"}
LAST_EVENT_ID: Final = [
    parameter(
        "header",
        "Last-Event-ID",
        EVENT_ID,
        "The id of the last event that you have, `<run id>:<number>`: the next ones are sent.",
        example=f"{EXAMPLE_ID}:2",
    ),
    parameter("query", "last_event_id", EVENT_ID, "The same, where no header can be set."),
]
PARAMETERS: Final = {
    "configuration_id": "The id or slug of a configuration. Without it, the session's.",
    "temperature": "How free the answer is. Without it, as with the next three, the default.",
    "max_tokens": "How long the answer may be.",
    "top_p": "How many of the likely tokens are chosen from.",
    "context_limit": "How many earlier messages are sent; 0 for none.",
    "schema": "The name of a kept JSON schema, a schema as JSON text, or `none`.",
    "idempotency_key": "The same key never makes a second run.",
}
STARTED_EXAMPLE: Final = {
    "run_id": EXAMPLE_ID,
    "user_message_id": 123,
    "events_url": f"/runs/{EXAMPLE_ID}/events/",
    "stop_url": f"/runs/{EXAMPLE_ID}/stop/",
}
STREAM_EXAMPLE: Final = f"""\
id: {EXAMPLE_ID}:3
data: {{"type":"chunk","content":"Hello","tokens":2}}

id: {EXAMPLE_ID}:4
data: {{"type":"done","assistant_message_id":124,"full_response":"Hello", …}}
"""


def schemas() -> dict[str, JSONObject]:
    """Those that nobody else has. Bounds are those of the forms and settings as they are now."""
    message = of_form(
        MessageForm,
        {
            "prompt": "What to say.",
            **PARAMETERS,
            "attachments": "The ids of uploaded images, separated by commas; "
            f"{settings.ATTACHMENTS_PER_MESSAGE} at most.",
        },
        description="A message to send. Numbers may come as text, and what is blank is the "
        "default.",
    )
    message["properties"]["prompt"]["maxLength"] = settings.PROMPT_MAX_CHARACTERS
    return {
        "Message": message,
        "Parameters": of_form(
            ParametersForm,
            PARAMETERS,
            description="How to answer. What is left out is as the session used it last.",
        ),
        "Title": of_form(TitleForm, {"title": "The new title."}),
        "ReplayRequest": of_form(
            ReplayForm,
            {
                "how": "Unchanged, with an edited body, or to another configuration.",
                "body": "The edited body, as JSON text.",
                "configuration_id": "The id or slug of the other configuration.",
            },
        ),
        "Session": record({"session_id": UUID, "url": PATH}),
        "Started": record(
            {
                "run_id": UUID,
                "user_message_id": maybe(ID),
                "events_url": told(PATH, "Where its events can be followed."),
                "stop_url": told(PATH, "Where it can be stopped."),
            },
            "A run that has started. For people who have switched streaming off, it has ended: "
            "then the fields of its `done` or `error` are there as well.",
        ),
        "Replayed": record(
            {
                "run_id": UUID,
                "events_url": PATH,
                "stop_url": PATH,
                "comparison_url": told(PATH, "The page that compares the answers."),
            }
        ),
        "Stopped": record(
            {
                "stopped": told(FLAG, "False where it had ended before."),
                "user_message_deleted": told(
                    FLAG, "True where there was nothing of an answer yet."
                ),
                "user_prompt?": told(TEXT, "For its writer only."),
                "receipt": maybe(ref("Receipt")),
                "attachments?": array(ref("Attachment")),
            }
        ),
        "Context": record(
            {
                "included": told(array(ID), "The ids of the messages that would be sent."),
                "left_out": array(
                    record({"id": ID, "reason": one_of(["failed", "limit", "window"])})
                ),
                "input_tokens": told(COUNT, "Estimated."),
                "context_window": told(maybe(COUNT), "Tokens, null where it is unknown."),
                "estimate": record(
                    {"tokens": COUNT, "cost_usd": maybe(NUMBER)}, "What it may use at most."
                ),
                "budget": told(TEXT, "What is left of your budgets, as HTML."),
            }
        ),
    }


def paths() -> dict[str, Any]:
    return {**_sessions(), **_messages(), **_runs(), **_images()}


def started(description: str = "The run has started.", schema: str = "Started") -> dict[int, Any]:
    """201, or 200 where the same key has started it before."""
    example = STARTED_EXAMPLE if schema == "Started" else None
    return {
        201: answer(description, ref(schema), example=example),
        200: answer("The same idempotency key has started this run before.", ref(schema)),
    }


def _sessions() -> dict[str, Any]:
    return {
        "/chat/": {
            "post": operation(
                "new_chat",
                "Make a session",
                security=PAGE,
                answers={
                    201: answer(
                        "It is there.",
                        ref("Session"),
                        example={"session_id": EXAMPLE_ID, "url": f"/chat/{EXAMPLE_ID}/"},
                    ),
                    **responses("App", 400, 401, 403, 503),
                },
            )
        },
        "/chat/{session_id}/messages/": {
            "parameters": [SESSION_ID],
            "post": operation(
                "send",
                "Send a message",
                "Stores the message and starts a run, which goes on by itself: follow its events, "
                "stop it, or come back later.",
                security=PAGE,
                body=body(
                    ref("Message"),
                    JSON,
                    FORM,
                    example={"prompt": "Why is the sky blue?", "temperature": 0.7},
                ),
                answers={
                    **started("The message is stored, and its run has started."),
                    **responses("App", 400, 401, 403, 404, 409, 413, 422, 429, 503),
                },
            ),
        },
        "/chat/stream/": {
            "get": operation(
                "stream",
                "Send a message and follow its answer in one request",
                "For an `EventSource` of the app's own page: the browser's `Sec-Fetch-Site`, "
                "`Sec-Fetch-Dest` and `Origin` have to show that, else it is refused with 403. "
                "A request with `Last-Event-ID` follows its run and sends nothing.",
                security=SESSION,
                parameters=[
                    parameter("query", "session_id", UUID, "The session.", required=True),
                    *in_query(
                        MessageForm,
                        {"prompt": "What to say.", **PARAMETERS, "attachments": "Ids of images."},
                    ),
                    *LAST_EVENT_ID,
                ],
                answers={
                    200: stream("The events of the run.", *RUN_EVENTS, example=STREAM_EXAMPLE),
                    204: answer("You have all of it."),
                    **responses("App", 400, 401, 403, 404, 409, 422, 429, 503),
                },
            )
        },
        "/chat/{session_id}/stop/": {
            "parameters": [SESSION_ID],
            "post": operation(
                "stop_chat",
                "Stop what runs in a session",
                security=PAGE,
                answers={
                    200: answer("It does not run any more.", ref("Stopped")),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
        "/chat/{session_id}/context/": {
            "parameters": [SESSION_ID],
            "get": operation(
                "chat_context",
                "Ask which messages the next request would include",
                security=SESSION,
                parameters=in_query(
                    ContextForm,
                    {
                        **{name: words for name, words in PARAMETERS.items() if name != "schema"},
                        "prompt_characters": "How long the message is that is being written.",
                    },
                ),
                answers={
                    200: answer("What would be sent.", ref("Context")),
                    **responses("App", 401, 404, 422, 503),
                },
            ),
        },
        "/chat/{session_id}/rename/": {
            "parameters": [SESSION_ID],
            "post": operation(
                "rename_chat",
                "Rename a session",
                security=PAGE,
                body=body(ref("Title"), JSON, FORM, example={"title": "The colour of the sky"}),
                answers={
                    200: answer("It has the new title, which is shown here.", TEXT, "text/html"),
                    **responses("App", 400, 401, 403, 404, 413, 422, 503),
                },
            ),
        },
        "/chat/{session_id}/delete/": {
            "parameters": [SESSION_ID],
            "post": operation(
                "delete_chat",
                "Delete a session",
                "What runs in it is stopped first.",
                security=PAGE,
                answers={
                    204: answer("It is gone."),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
        "/preferences/": {
            "post": operation(
                "preferences",
                "Switch streaming on or off",
                "Without streaming, a send answers at the end, with the same fields as `done`.",
                security=PAGE,
                body=body(
                    record({"streams_answers?": told(FLAG, "Left out, it is switched off.")}),
                    example={"streams_answers": True},
                    required=False,
                ),
                answers={
                    204: answer("It is kept."),
                    **responses("App", 400, 401, 403, 413, 503),
                },
            )
        },
    }


def _messages() -> dict[str, Any]:
    again = {
        **started(),
        **responses("App", 400, 401, 403, 404, 409, 413, 422, 429, 503),
    }
    parameters = body(ref("Parameters"), JSON, FORM, example={"temperature": 0.2}, required=False)
    return {
        "/messages/{message_id}/retry/": {
            "parameters": [MESSAGE_ID],
            "post": operation(
                "retry", "Ask a question again", security=PAGE, body=parameters, answers=again
            ),
        },
        "/messages/{message_id}/continue/": {
            "parameters": [MESSAGE_ID],
            "post": operation(
                "continue",
                "Have an answer continued that was cut off",
                security=PAGE,
                body=parameters,
                answers=again,
            ),
        },
        "/messages/{message_id}/raw/": {
            "parameters": [MESSAGE_ID],
            "get": operation(
                "message_raw",
                "Get the text of a message as it was written",
                security=SESSION,
                answers={
                    200: answer("The text.", TEXT, "text/plain"),
                    **responses("App", 401, 404, 503),
                },
            ),
        },
        "/messages/{message_id}/json/": {
            "parameters": [MESSAGE_ID],
            "get": operation(
                "message_json",
                "Download an answer that was to be JSON",
                security=SESSION,
                answers={
                    200: answer("The value.", ref("Anything")),
                    **responses("App", 401, 404, 503),
                },
            ),
        },
        "/messages/{message_id}/delete/": {
            "parameters": [MESSAGE_ID],
            "post": operation(
                "delete_message",
                "Delete a message",
                "Those that follow it stay.",
                security=PAGE,
                answers={
                    204: answer("It is gone."),
                    **responses("App", 400, 401, 403, 404, 409, 503),
                },
            ),
        },
    }


def _runs() -> dict[str, Any]:
    return {
        "/runs/{run_id}/events/": {
            "parameters": [RUN_ID],
            "get": operation(
                "run_events",
                "Follow the events of a run",
                "All from the first, or those after `Last-Event-ID`, then live as they come, up to "
                "`done` or `error`. Losing the connection neither stops nor repeats the run. A "
                "comment (`: ping`) comes while there is nothing else. A token opens the runs that "
                "were started with it.",
                security=[{"session": []}, {"token": []}],
                parameters=[
                    *LAST_EVENT_ID,
                    parameter(
                        "query",
                        "view",
                        one_of(["html"]),
                        "With `html`, rendered blocks come in place of chunks.",
                    ),
                    parameter(
                        "query",
                        "poll",
                        one_of(["1"]),
                        "With `1`, what there is at this moment is the whole answer.",
                    ),
                ],
                answers={
                    200: stream("The events.", *RUN_EVENTS, example=STREAM_EXAMPLE),
                    204: answer("The run is over, and you have all of it."),
                    **responses("App", 400, 401, 404, 429, 503),
                },
            ),
        },
        "/runs/{run_id}/stop/": {
            "parameters": [RUN_ID],
            "post": operation(
                "stop",
                "Stop a run",
                "When this answers, the connection to the provider is closed. Staff may stop "
                "anybody's runs.",
                security=PAGE,
                answers={
                    200: answer("It does not run any more.", ref("Stopped")),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
        "/runs/{run_id}/replay/": {
            "parameters": [RUN_ID],
            "post": operation(
                "replay",
                "Send the recorded request of a run again",
                "It costs what it costs, and stays out of the chat.",
                security=PAGE,
                body=body(ref("ReplayRequest"), JSON, FORM, example={"how": "same"}),
                answers={
                    201: answer("The replay has started.", ref("Replayed")),
                    **responses("App", 400, 401, 403, 404, 409, 413, 422, 429, 503),
                },
            ),
        },
        "/runs/{run_id}/mismatch/": {
            "parameters": [RUN_ID],
            "post": operation(
                "run_mismatch",
                "Report that what a page had received was not what is stored",
                security=PAGE,
                answers={
                    204: answer("It is counted."),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
    }


def _images() -> dict[str, Any]:
    file = {
        "type": "string",
        "format": "binary",
        "description": f"PNG, JPEG, GIF or WebP, up to {settings.ATTACHMENT_MAX_BYTES:,} bytes.",
    }
    image = joined(
        answer("The image, which never changes.", {}, "image/png"), answer("", {}, "image/jpeg")
    )
    return {
        "/attachments/": {
            "post": operation(
                "upload",
                "Upload an image to send with a message",
                security=PAGE,
                body=body(record({"file": file}), "multipart/form-data"),
                answers={
                    201: answer("It can be sent.", ref("Attachment")),
                    **responses("App", 400, 401, 403, 413, 422, 429, 503),
                },
            )
        },
        "/attachments/{attachment_id}/": {
            "parameters": [ATTACHMENT_ID],
            "get": operation(
                "attachment",
                "Get an image",
                security=SESSION,
                answers={
                    200: {**image, "description": "The image, which never changes."},
                    304: answer("You have it."),
                    **responses("App", 401, 404, 503),
                },
            ),
        },
        "/attachments/{attachment_id}/delete/": {
            "parameters": [ATTACHMENT_ID],
            "post": operation(
                "delete_attachment",
                "Delete an image that was not sent",
                security=PAGE,
                answers={
                    204: answer("It is gone."),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
    }
