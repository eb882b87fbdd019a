"""Tokens, the monitor, and what operators ask."""

from typing import Any, Final

from conversations.forms import MessageForm
from conversations.models import Run
from conversations.views.tokens import LIFETIMES, TokenForm
from llmchat.openapi.chat import PARAMETERS, RUN_ID
from llmchat.openapi.shapes import (
    COUNT,
    FLAG,
    FORM,
    FREE,
    ID,
    JSON,
    MOMENT,
    NOBODY,
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
    constant,
    header,
    in_query,
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
from monitor.delivery import ProbeForm
from monitor.forms import FilterForm
from monitor.metrics import CONTENT_TYPE
from providers.models import Configuration
from providers.pricing import CostSource

FILTERS: Final = {
    "user": "A user name, for staff.",
    "configuration": "A slug.",
    "status": "How the run ended, or that it has not.",
    "origin": "What it was made for.",
    "code": "An error code.",
    "session": "The id of a session.",
    "from": "Only those that started at this moment or later.",
    "to": "Only those that started before this moment.",
}
TABLE: Final = "text/csv"
DISPOSITION: Final = {"Content-Disposition": header(TEXT, "A file, with its name.", required=True)}


def schemas() -> dict[str, JSONObject]:
    part = one_of(["ok", "unreachable", "behind"])
    token = of_form(
        TokenForm(Configuration.objects.none()),
        {
            "name": "What it is for.",
            "configurations": "The slugs of those that it opens; without any, all of yours.",
            "days": f"How long it is good: {', '.join(days or 'blank' for days, _ in LIFETIMES)}.",
            "monthly_usd": "What may be spent with it in a month.",
        },
        description="What a new token is to be.",
    )
    return {
        "TokenRequest": token,
        "NewToken": record(
            {"id": ID, "name": TEXT, "token": told(TEXT, "The secret, shown this once.")}
        ),
        "TestRequest": of_form(MessageForm, {"prompt": "What to say.", **PARAMETERS}),
        "TestStarted": record(
            {"run_id": UUID, "events_url": PATH, "stop_url": PATH, "inspector_url": PATH}
        ),
        "ActivityRow": record(
            {
                "run_id": told(maybe(TEXT), "Its id."),
                "session_id": maybe(TEXT),
                "user": maybe(TEXT),
                "configuration": TEXT,
                "provider": TEXT,
                "model": TEXT,
                "status": one_of(Run.Status.values),
                "code": told(maybe(TEXT), "Of an error."),
                "prompt_tokens": maybe(COUNT),
                "completion_tokens": maybe(COUNT),
                "total_tokens": maybe(COUNT),
                "reasoning_tokens": maybe(COUNT),
                "cached_tokens": maybe(COUNT),
                "cost_usd": maybe(NUMBER),
                "cost_source": maybe(one_of([*(str(source) for source in CostSource), ""])),
                "started_at": MOMENT,
                "ended_at": maybe(MOMENT),
                "time_to_first_chunk": told(maybe(NUMBER), "Seconds."),
                "processing_time": told(maybe(NUMBER), "Seconds."),
            },
            "A run, and what it used.",
        ),
        "Record": record(
            {
                "run_id": UUID,
                "request_data": told(FREE, "As the event of this name has it."),
                "calls": array(
                    record(
                        {
                            "attempt": COUNT,
                            "request": record(
                                {
                                    "method": TEXT,
                                    "url": TEXT,
                                    "headers": told({}, "Without secrets."),
                                    "body": TEXT,
                                    "body_length": COUNT,
                                    "body_sha256": TEXT,
                                    "sent_at": MOMENT,
                                }
                            ),
                            "response": record(
                                {
                                    "status": maybe(COUNT),
                                    "headers": {},
                                    "headers_after": told(maybe(NUMBER), "Seconds."),
                                    "ended_after": told(maybe(NUMBER), "Seconds."),
                                    "length": COUNT,
                                    "is_cut": FLAG,
                                    "lines": told(
                                        array({}), "Each with the milliseconds since the request."
                                    ),
                                }
                            ),
                            "error_code": maybe(TEXT),
                        }
                    )
                ),
            },
            "All that is recorded of the requests of a run.",
        ),
        "Health": record(
            {
                "status": one_of(["ok", "unavailable"]),
                "database": part,
                "redis?": part,
                "journal": part,
                "journal_lag": told(NUMBER, "Seconds that the oldest event waits to be stored."),
            }
        ),
        "Description": record(
            {"openapi": constant("3.1.1"), "info": FREE, "paths": FREE, "components": FREE},
            "An OpenAPI document.",
        ),
    }


def paths() -> dict[str, Any]:
    return {**_tokens(), **_activity(), **_inspector(), **_live(), **_operators()}


def _tokens() -> dict[str, Any]:
    return {
        "/accounts/tokens/": {
            "post": operation(
                "make_token",
                "Make a token for programs",
                security=PAGE,
                body=body(ref("TokenRequest"), JSON, FORM, example={"name": "laptop"}),
                answers={
                    201: answer("It can be used.", ref("NewToken")),
                    **responses("App", 400, 401, 403, 413, 422, 503),
                },
            )
        },
        "/accounts/tokens/{token_id}/revoke/": {
            "parameters": [parameter("path", "token_id", ID, "The id of a token.")],
            "post": operation(
                "revoke_token",
                "Revoke a token",
                "It opens nothing any more, also in the middle of a stream.",
                security=PAGE,
                answers={
                    204: answer("It is revoked."),
                    **responses("App", 400, 401, 403, 404, 503),
                },
            ),
        },
    }


def _activity() -> dict[str, Any]:
    filters = in_query(FilterForm(), FILTERS)
    refused = responses("App", 401, 422, 429, 503)
    return {
        "/monitor/activity/export.json": {
            "get": operation(
                "activity_json",
                "Export runs as JSON",
                "Your own; for staff everybody's.",
                security=SESSION,
                parameters=filters,
                answers={
                    200: answer("The runs.", array(ref("ActivityRow")), headers=DISPOSITION),
                    **refused,
                },
            )
        },
        "/monitor/activity/export.csv": {
            "get": operation(
                "activity_csv",
                "Export runs as CSV",
                "The same columns. Texts that a spreadsheet would take for a formula begin with an "
                "apostrophe.",
                security=SESSION,
                parameters=filters,
                answers={200: answer("The runs.", TEXT, TABLE, headers=DISPOSITION), **refused},
            )
        },
    }


def _inspector() -> dict[str, Any]:
    refused = responses("App", 401, 404, 503)
    return {
        "/monitor/runs/{run_id}/record.json": {
            "parameters": [RUN_ID],
            "get": operation(
                "run_record",
                "Download all that is recorded of a run's requests",
                security=SESSION,
                answers={200: answer("The record.", ref("Record"), headers=DISPOSITION), **refused},
            ),
        },
        "/monitor/runs/{run_id}/received.ndjson": {
            "parameters": [RUN_ID],
            "get": operation(
                "run_received",
                "Download the lines that the provider sent",
                'A JSON object a line, `{"attempt", "ms", "line"}`.',
                security=SESSION,
                answers={
                    200: answer("The lines.", TEXT, "application/x-ndjson", headers=DISPOSITION),
                    **refused,
                },
            ),
        },
        "/monitor/runs/{run_id}/body/": {
            "parameters": [RUN_ID],
            "get": operation(
                "run_body",
                "Get the body that was sent to the provider",
                security=SESSION,
                parameters=[
                    parameter(
                        "query",
                        "as",
                        one_of(["curl"]),
                        "With `curl`, as a command without the key.",
                    )
                ],
                answers={200: answer("The body.", TEXT, "text/plain"), **refused},
            ),
        },
    }


def _live() -> dict[str, Any]:
    return {
        "/monitor/live/events/": {
            "get": operation(
                "live_events",
                "Follow all runs in flight",
                "First all of them, then what changes, for as long as you listen. Your own; for "
                "staff everybody's.",
                security=SESSION,
                answers={
                    200: stream("The events.", "RunsEvent"),
                    **responses("App", 401, 429, 503),
                },
            )
        },
        "/monitor/test/": {
            "post": operation(
                "stream_test",
                "Start a run outside of sessions",
                security=PAGE,
                body=body(ref("TestRequest"), JSON, FORM, example={"prompt": "/demo tour"}),
                answers={
                    201: answer("The run has started.", ref("TestStarted")),
                    200: answer("The same key has started it before.", ref("TestStarted")),
                    **responses("App", 400, 401, 403, 404, 409, 413, 422, 429, 503),
                },
            )
        },
        "/monitor/test/delivery/": {
            "get": operation(
                "delivery_test",
                "Measure how a stream arrives",
                "Events at a fixed pace, a silence, and one last event. No provider is called.",
                security=SESSION,
                parameters=in_query(
                    ProbeForm,
                    {
                        "events": "How many.",
                        "interval": "Seconds between two.",
                        "silence": "Seconds of silence after them.",
                    },
                ),
                answers={
                    200: stream("The events.", "ProbeEvent", "ProbeEndEvent"),
                    **responses("App", 401, 422, 429, 503),
                },
            )
        },
    }


def _operators() -> dict[str, Any]:
    return {
        "/healthz": {
            "get": operation(
                "health",
                "Ask whether this process can do its work",
                security=NOBODY,
                answers={
                    200: answer("It can.", ref("Health")),
                    503: answer("It cannot; the part that is missing is named.", ref("Health")),
                },
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                "Get the figures of this process for Prometheus",
                "For staff, or with the token in `METRICS_TOKEN`.",
                security=[{"metrics": []}, {"session": []}],
                answers={
                    200: answer("The figures.", TEXT, CONTENT_TYPE.partition(";")[0]),
                    **responses("App", 401, 404, 503),
                },
            )
        },
        "/api/openapi.json": {
            "get": operation(
                "openapi",
                "Get this description",
                security=NOBODY,
                answers={
                    200: answer("An OpenAPI 3.1 document.", ref("Description")),
                    304: answer("You have it."),
                },
            )
        },
    }
