"""The API for programs: OpenAI's shapes, Anthropic's, and the plain stream (contract A1, A2)."""

from typing import Any, Final

from django.conf import settings

from conversations.api import anthropic_answer, anthropic_request, completions
from conversations.api.messages import MOST_MESSAGES, ROLES
from llmchat.openapi.chat import EVENT_ID
from llmchat.openapi.shapes import (
    COUNT,
    FLAG,
    FREE,
    MOMENT,
    NUMBER,
    TEXT,
    TOKEN,
    TOKEN_OR_KEY,
    UUID,
    JSONObject,
    answer,
    array,
    body,
    constant,
    either,
    event,
    header,
    joined,
    maybe,
    one_of,
    operation,
    parameter,
    record,
    ref,
    responses,
    stream,
    told,
)

URL: Final = {"type": "string", "format": "uri"}
FAILURES: Final = (400, 401, 404, 405, 409, 413, 429, 500, 502, 503, 504)
QUESTION: Final = [{"role": "user", "content": "Why is the sky blue?"}]
SAVE: Final = [
    parameter(
        "header",
        completions.SAVE_HEADER,
        one_of([*completions.YES, "false"]),
        "With `true`, the call is stored as a session of yours, and goes on without its client.",
    ),
    parameter(
        "header",
        completions.KEY_HEADER,
        {"type": "string", "maxLength": 200},
        "The same key never makes a second run. Of calls that are saved.",
    ),
]
RUN_HEADERS: Final = {
    "X-LLMChat-Run": header(UUID, "The id of the run.", required=True),
    "X-LLMChat-Inspector": header(URL, "The page that shows all of it.", required=True),
    "X-LLMChat-Events": header(URL, "Where it can be followed and resumed.", required=True),
    "X-LLMChat-Session": header(URL, "The page of the session, if the call is saved."),
    "X-LLMChat-Ignored": header(TEXT, "The fields that are not used."),
    "x-ratelimit-limit-requests": header(COUNT, "Calls in a minute.", required=True),
    "x-ratelimit-remaining-requests": header(COUNT, "Those that are left.", required=True),
    "x-ratelimit-reset-requests": header(
        {"type": "string", "pattern": r"^\d+s$"}, "Seconds until another is.", required=True
    ),
}
TEMPERATURE: Final = {"type": ["number", "null"], "minimum": 0, "maximum": 2}
SHARE: Final = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
TOKENS: Final = {"type": ["integer", "null"], "minimum": 1, "maximum": completions.MOST_TOKENS}
PENALTY: Final = {"type": ["number", "null"], "minimum": -2, "maximum": 2}
MODEL: Final = {
    "type": "string",
    "maxLength": 200,
    "description": "The slug of a configuration.",
    "examples": ["demo"],
}
EFFORT: Final = one_of([*completions.EFFORTS, None])
FLAG_OR_NULL: Final = maybe(FLAG)
SPENT: Final = {
    "cost_usd": told(maybe(NUMBER), "Null where it is unknown."),
    "estimated": told(FLAG, "True where the provider gave no counts."),
}


def schemas() -> dict[str, JSONObject]:
    return {**_completions(), **_responses(), **_anthropic(), **_plain(), **_models()}


def paths() -> dict[str, Any]:
    return {
        "/v1/chat/completions": {
            "post": operation(
                "chat_completions",
                "Complete a chat, as with OpenAI",
                "OpenAI's own clients work unchanged with this as their base URL: `…/v1`. "
                "A run ends with its client, unless it is saved.",
                security=TOKEN,
                parameters=SAVE,
                body=body(
                    ref("ChatCompletionRequest"), example={"model": "demo", "messages": QUESTION}
                ),
                answers={
                    200: joined(
                        answer("The answer;", ref("ChatCompletion"), headers=RUN_HEADERS),
                        stream(
                            "with `stream` its chunks, and `data: [DONE]` at the end.",
                            "ChatCompletionChunk",
                            "OpenAIError",
                            end="[DONE]",
                        ),
                    ),
                    **responses("OpenAI", *FAILURES),
                },
            )
        },
        "/v1/responses": {
            "post": operation(
                "responses",
                "Create a response, as with OpenAI's newer API",
                "Nothing is kept for later calls: send the whole conversation as `input`.",
                security=TOKEN,
                parameters=SAVE,
                body=body(
                    ref("ResponseRequest"),
                    example={"model": "demo", "input": "Why is the sky blue?"},
                ),
                answers={
                    200: joined(
                        answer("The response;", ref("Response"), headers=RUN_HEADERS),
                        stream("with `stream` its events.", "ResponseEvent"),
                    ),
                    **responses("OpenAI", *FAILURES),
                },
            )
        },
        "/v1/messages": {
            "post": operation(
                "messages",
                "Create a message, as with Anthropic",
                "Anthropic's own clients work unchanged with this server as their base URL, and "
                "with any configuration as the model.",
                security=TOKEN_OR_KEY,
                parameters=SAVE,
                body=body(
                    ref("AnthropicRequest"),
                    example={"model": "demo", "max_tokens": 1024, "messages": QUESTION},
                ),
                answers={
                    200: joined(
                        answer(
                            "The message;",
                            ref("AnthropicMessage"),
                            headers={
                                **RUN_HEADERS,
                                "request-id": header(UUID, "The id of the run.", required=True),
                            },
                        ),
                        stream("with `stream` its events.", "AnthropicEvent", "AnthropicError"),
                    ),
                    **responses("Anthropic", *FAILURES),
                },
            )
        },
        "/v1/messages/count_tokens": {
            "post": operation(
                "count_tokens",
                "Count the tokens that a message would send",
                security=TOKEN_OR_KEY,
                body=body(
                    ref("AnthropicCountRequest"), example={"model": "demo", "messages": QUESTION}
                ),
                answers={
                    200: answer(
                        "An estimate.",
                        record({"input_tokens": COUNT, "estimated": constant(True)}),
                    ),
                    **responses("Anthropic", 400, 401, 404, 405, 413, 500, 503),
                },
            )
        },
        "/v1/models": {
            "get": operation(
                "models",
                "List the models that you may use",
                security=TOKEN_OR_KEY,
                answers={
                    200: answer("All of them.", ref("Models")),
                    **responses("OpenAI", 401, 405, 500, 503),
                },
            )
        },
        "/v1/models/{slug}": {
            "parameters": [
                parameter("path", "slug", {"type": "string", "minLength": 1}, "Its slug.")
            ],
            "get": operation(
                "model",
                "Get one model",
                security=TOKEN_OR_KEY,
                answers={
                    200: answer("The model.", ref("Model")),
                    **responses("OpenAI", 401, 404, 405, 500, 503),
                },
            ),
        },
        "/api/v1/llm/complete/stream": {
            "get": operation(
                "complete",
                "Stream an answer as plain texts",
                "With a token, or from the app's own page with the login cookie. The last event "
                "has the text `[DONE]`. An `EventSource` that reconnects resumes its run.",
                security=[*TOKEN, {"session": []}],
                parameters=[
                    parameter(
                        "query",
                        "messages",
                        {"type": "string", "contentMediaType": "application/json"},
                        "A list of messages, as JSON text.",
                        example='[{"role": "user", "content": "Why is the sky blue?"}]',
                    ),
                    parameter(
                        "query",
                        "options",
                        {"type": "string", "contentMediaType": "application/json"},
                        "How to answer, as JSON text.",
                        example='{"temperature": 0.2}',
                    ),
                    parameter(
                        "header",
                        "Last-Event-ID",
                        EVENT_ID,
                        "The last event that you have of a run.",
                    ),
                ],
                answers={**_texts(), 204: answer("The run is over, and you have all of it.")},
            ),
            "post": operation(
                "complete_post",
                "Stream an answer as plain texts, asked for in JSON",
                security=[*TOKEN, {"session": [], "csrf": []}],
                body=body(ref("PlainRequest"), example={"messages": QUESTION}),
                answers=_texts(),
            ),
        },
    }


def _texts() -> dict[int, JSONObject]:
    # A stream that is resumed has none of them.
    headers = {
        name: {**one, "required": False}
        for name, one in RUN_HEADERS.items()
        if name != "X-LLMChat-Ignored"
    }
    return {
        200: stream("The texts.", "TextEvent", headers=headers),
        **responses("App", 400, 401, 403, 404, 413, 422, 429, 503),
        **responses("Failed", 500, 502, 504),
    }


# ---- Chat Completions


def _completions() -> dict[str, JSONObject]:
    function = record(
        {
            "name": {"type": "string", "pattern": f"^{completions.TOOL_NAME.pattern}$"},
            "description?": maybe(TEXT),
            "parameters?": told(maybe(FREE), "A JSON schema."),
            "strict?": FLAG_OR_NULL,
        }
    )
    tool_call = record(
        {
            "id": {"type": "string", "maxLength": 200},
            "type?": constant("function"),
            "function": record({"name": {"type": "string", "maxLength": 200}, "arguments?": TEXT}),
        }
    )
    part = either(
        record({"type": constant("text"), "text": TEXT}),
        record(
            {
                "type": constant("image_url"),
                "image_url": record({"url": told(TEXT, "A `data:` URL of the image itself.")}),
            }
        ),
    )
    head = {"id": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": maybe(TEXT)}
    made_call = record(
        {
            "id": TEXT,
            "type": constant("function"),
            "function": record({"name": TEXT, "arguments": TEXT}),
        }
    )
    reason = maybe(one_of(["stop", "length", "tool_calls", "content_filter"]))
    return {
        "ChatMessage": record(
            {
                "role": one_of(ROLES),
                "content?": either(TEXT, array(part), {"type": "null"}),
                "tool_calls?": told(array(tool_call), "Of an assistant's message."),
                "tool_call_id?": told(TEXT, "Of a tool's message: the call that it answers."),
            },
            "A message in OpenAI's shape. Images are a user's only.",
        ),
        "ChatCompletionRequest": record(
            {
                "model": MODEL,
                "messages": array(ref("ChatMessage"), minItems=1, maxItems=MOST_MESSAGES),
                "stream?": FLAG_OR_NULL,
                "stream_options?": told(
                    maybe(record({"include_usage?": FLAG_OR_NULL})), "Only with `stream`."
                ),
                "temperature?": TEMPERATURE,
                "top_p?": SHARE,
                "max_completion_tokens?": TOKENS,
                "max_tokens?": told(TOKENS, "The older name of `max_completion_tokens`."),
                "reasoning_effort?": EFFORT,
                "stop?": either(
                    {"type": "string", "maxLength": completions.MOST_STOP},
                    array(
                        {"type": "string", "maxLength": completions.MOST_STOP},
                        maxItems=completions.MOST_STOPS,
                    ),
                    {"type": "null"},
                ),
                "seed?": {
                    "type": ["integer", "null"],
                    "minimum": -completions.WHOLE,
                    "maximum": completions.WHOLE,
                },
                "presence_penalty?": PENALTY,
                "frequency_penalty?": PENALTY,
                "logit_bias?": {
                    "type": ["object", "null"],
                    "maxProperties": completions.MOST_BIASES,
                    "propertyNames": {"pattern": "^[0-9]+$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                },
                "response_format?": maybe(
                    either(
                        record({"type": one_of(["text", "json_object"])}),
                        record(
                            {
                                "type": constant("json_schema"),
                                "json_schema": record(
                                    {
                                        "name?": {"type": ["string", "null"], "maxLength": 64},
                                        "schema": told(FREE, "A JSON schema."),
                                    }
                                ),
                            }
                        ),
                    )
                ),
                "tools?": {
                    "type": ["array", "null"],
                    "items": record({"type": constant("function"), "function": function}),
                    "maxItems": completions.MOST_TOOLS,
                },
                "tool_choice?": either(
                    one_of(["none", "auto", "required", None]),
                    record({"type": constant("function"), "function": record({"name": TEXT})}),
                ),
                "parallel_tool_calls?": FLAG_OR_NULL,
                "n?": one_of([1, None]),
                "metadata?": told(
                    maybe(FREE), f"With `{completions.SAVE_FIELD}` as `true`, the call is saved."
                ),
            },
            "OpenAI's fields. Those that are not used are named in `X-LLMChat-Ignored`.",
        ),
        "ChatCompletionUsage": record(
            {
                "prompt_tokens": COUNT,
                "completion_tokens": COUNT,
                "total_tokens": COUNT,
                "prompt_tokens_details": record({"cached_tokens": COUNT}),
                "completion_tokens_details": record({"reasoning_tokens": COUNT}),
                **SPENT,
            },
            "What was used; a count that is unknown is 0.",
        ),
        "ChatCompletion": record(
            {
                **head,
                "object": constant("chat.completion"),
                "choices": array(
                    record(
                        {
                            "index": COUNT,
                            "message": record(
                                {
                                    "role": constant("assistant"),
                                    "content": maybe(TEXT),
                                    "refusal": maybe(TEXT),
                                    "reasoning_content?": TEXT,
                                    "tool_calls?": array(made_call),
                                }
                            ),
                            "logprobs": maybe(FREE),
                            "finish_reason": reason,
                        }
                    ),
                    minItems=1,
                ),
                "usage": ref("ChatCompletionUsage"),
            },
            "An answer in OpenAI's shape.",
        ),
        "ChatCompletionChunk": record(
            {
                **head,
                "object": constant("chat.completion.chunk"),
                "choices": array(
                    record(
                        {
                            "index": COUNT,
                            "delta": record(
                                {
                                    "role?": constant("assistant"),
                                    "content?": maybe(TEXT),
                                    "reasoning_content?": TEXT,
                                    "tool_calls?": array(
                                        record(
                                            {
                                                "index": COUNT,
                                                "id?": TEXT,
                                                "type?": constant("function"),
                                                "function": record(
                                                    {"name?": TEXT, "arguments": TEXT}
                                                ),
                                            }
                                        )
                                    ),
                                }
                            ),
                            "logprobs": maybe(FREE),
                            "finish_reason": reason,
                        }
                    )
                ),
                "usage?": maybe(ref("ChatCompletionUsage")),
            },
            "A piece of an answer. Its id line is that of the run's event.",
        ),
    }


# ---- Responses


def _responses() -> dict[str, JSONObject]:
    return {
        "ResponseRequest": record(
            {
                "model": MODEL,
                "input": either(
                    told(TEXT, "What the user says.", minLength=1),
                    array(
                        told(
                            FREE,
                            "A message, or an item of the type function_call, "
                            "function_call_output or reasoning.",
                        ),
                        minItems=1,
                        maxItems=MOST_MESSAGES,
                    ),
                ),
                "instructions?": told(maybe(TEXT), "Stand before the input."),
                "stream?": FLAG_OR_NULL,
                "temperature?": TEMPERATURE,
                "top_p?": SHARE,
                "max_output_tokens?": TOKENS,
                "reasoning?": maybe(record({"effort?": EFFORT})),
                "text?": told(
                    maybe(record({"format?": maybe(FREE)})),
                    "`format` is of the type text, json_object or json_schema.",
                ),
                "tools?": {
                    "type": ["array", "null"],
                    "items": record(
                        {
                            "type": constant("function"),
                            "name": {
                                "type": "string",
                                "pattern": f"^{completions.TOOL_NAME.pattern}$",
                            },
                            "description?": maybe(TEXT),
                            "parameters?": maybe(FREE),
                            "strict?": FLAG_OR_NULL,
                        }
                    ),
                    "maxItems": completions.MOST_TOOLS,
                },
                "tool_choice?": either(
                    one_of(["none", "auto", "required", None]),
                    record({"type": constant("function"), "name": TEXT}),
                ),
                "parallel_tool_calls?": FLAG_OR_NULL,
                "metadata?": maybe(FREE),
            },
            "OpenAI's fields.",
        ),
        "Response": record(
            {
                "id": TEXT,
                "object": constant("response"),
                "created_at": COUNT,
                "status": one_of(["completed", "incomplete", "cancelled", "failed", "in_progress"]),
                "model": TEXT,
                "output": array(
                    told(
                        record(
                            {"id": TEXT, "type": one_of(["message", "reasoning", "function_call"])}
                        ),
                        "A message, what was thought, or a call of a function.",
                    )
                ),
                "error": maybe(record({"code": TEXT, "message": TEXT})),
                "incomplete_details": maybe(record({"reason": TEXT})),
                "store": constant(False),
                "usage": maybe(
                    record(
                        {
                            "input_tokens": COUNT,
                            "input_tokens_details": record({"cached_tokens": COUNT}),
                            "output_tokens": COUNT,
                            "output_tokens_details": record({"reasoning_tokens": COUNT}),
                            "total_tokens": COUNT,
                            **SPENT,
                        }
                    )
                ),
            },
            "A response in OpenAI's shape, with the fields of the call that it repeats.",
        ),
        "ResponseEvent": record(
            {"type": TEXT, "sequence_number": COUNT},
            "One of OpenAI's streaming events, `response.output_text.delta` for instance; its "
            "`type` is the name of the event too. The last is `response.completed`, "
            "`response.incomplete` or, after `response.failed`, `error`.",
        ),
    }


# ---- Anthropic


def _anthropic() -> dict[str, JSONObject]:
    blocks = told(
        array(record({"type": TEXT})),
        "Blocks of the types text, image (base64), tool_use, tool_result or thinking.",
    )
    asked: dict[str, JSONObject] = {
        "model": MODEL,
        "messages": array(
            record(
                {"role": one_of(["user", "assistant", "system"]), "content": either(TEXT, blocks)}
            ),
            minItems=1,
            maxItems=MOST_MESSAGES,
        ),
        "system?": either(TEXT, array(record({"type": constant("text"), "text": TEXT}))),
        "temperature?": TEMPERATURE,
        "top_p?": SHARE,
        "stop_sequences?": {
            "type": ["array", "null"],
            "items": {"type": "string", "maxLength": completions.MOST_STOP},
            "maxItems": completions.MOST_STOPS,
        },
        "tools?": {
            "type": ["array", "null"],
            "items": record(
                {
                    "name": {
                        "type": "string",
                        "pattern": f"^{anthropic_request.TOOL_NAME.pattern}$",
                    },
                    "description?": maybe(TEXT),
                    "input_schema": FREE,
                    "strict?": FLAG_OR_NULL,
                }
            ),
            "maxItems": completions.MOST_TOOLS,
        },
        "tool_choice?": maybe(
            record(
                {
                    "type": one_of(["auto", "any", "tool", "none"]),
                    "name?": told(TEXT, "Of the tool, with the type `tool`."),
                    "disable_parallel_tool_use?": FLAG_OR_NULL,
                }
            )
        ),
        "thinking?": maybe(
            record(
                {
                    "type": one_of(["enabled", "adaptive", "disabled"]),
                    "budget_tokens?": {
                        "type": "integer",
                        "minimum": anthropic_request.LEAST_BUDGET,
                        "maximum": completions.MOST_TOKENS,
                        "description": "With `enabled`; less than `max_tokens`.",
                    },
                }
            )
        ),
        "output_config?": maybe(record({"effort?": EFFORT, "format?": maybe(FREE)})),
    }
    usage = {
        "input_tokens": told(COUNT, "Without what came from the cache."),
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "output_tokens": COUNT,
        "output_tokens_details?": record({"thinking_tokens": COUNT}),
        "cost_usd?": SPENT["cost_usd"],
        "estimated?": SPENT["estimated"],
    }
    reasons = dict.fromkeys([*anthropic_answer.STOP_REASONS.values(), *anthropic_answer.EXACT])
    stop = {"stop_reason": maybe(one_of(reasons)), "stop_sequence": maybe(TEXT)}
    head = {
        "id": TEXT,
        "type": constant("message"),
        "role": constant("assistant"),
        "model": TEXT,
        "content": array(
            either(
                record({"type": constant("text"), "text": TEXT}),
                record({"type": constant("thinking"), "thinking": TEXT, "signature": TEXT}),
                record({"type": constant("tool_use"), "id": TEXT, "name": TEXT, "input": FREE}),
            )
        ),
        **stop,
        "usage": record(usage),
    }
    block = record({"type": one_of(["text", "thinking", "tool_use"])})
    delta = record({"type": one_of(["text_delta", "thinking_delta", "input_json_delta"])})
    return {
        "AnthropicRequest": record(
            {
                **asked,
                "max_tokens": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": completions.MOST_TOKENS,
                },
                "stream?": FLAG_OR_NULL,
            },
            "Anthropic's fields. Those that are not used are named in `X-LLMChat-Ignored`.",
        ),
        "AnthropicCountRequest": record(asked, "The same without a limit."),
        "AnthropicMessage": record(head, "An answer in Anthropic's shape."),
        "AnthropicEvent": either(
            event("message_start", {"message": record(head)}, "The beginning."),
            event("content_block_start", {"index": COUNT, "content_block": block}, "A block."),
            event("content_block_delta", {"index": COUNT, "delta": delta}, "A piece of it."),
            event("content_block_stop", {"index": COUNT}, "Its end."),
            event(
                "message_delta",
                {"delta": record(stop), "usage": record(usage)},
                "Why the answer ended, and what it used.",
            ),
            event("message_stop", {}, "The end."),
            event("ping", {}, "Nothing else at the moment."),
            description="One of Anthropic's streaming events; its `type` is the event's name.",
        ),
    }


# ---- the plain stream, and models


def _plain() -> dict[str, JSONObject]:
    options = ref("ChatCompletionRequest")["$ref"] + "/properties/"
    return {
        "PlainRequest": record(
            {
                "messages": array(ref("ChatMessage"), minItems=1, maxItems=MOST_MESSAGES),
                "options?": maybe(
                    record(
                        {
                            "model?": told(maybe(TEXT), "Without it, the default one answers."),
                            "temperature?": TEMPERATURE,
                            "max_tokens?": TOKENS,
                            "response_format?": {"$ref": f"{options}response_format"},
                        }
                    )
                ),
            }
        )
    }


def _models() -> dict[str, JSONObject]:
    window = told(maybe(COUNT), "Tokens, null where it is unknown.")
    return {
        "Model": record(
            {
                "id": told(TEXT, "The slug, which calls name it by."),
                "object": constant("model"),
                "created": COUNT,
                "owned_by": told(TEXT, "The kind of the provider."),
                "name": TEXT,
                "context_window": window,
                "type": constant("model"),
                "display_name": TEXT,
                "created_at": MOMENT,
                "max_input_tokens": window,
                "lifecycle": TEXT,
            },
            "A configuration, with the fields of OpenAI's API and those of Anthropic's.",
        ),
        "Models": record(
            {
                "object": constant("list"),
                "data": array(ref("Model")),
                "has_more": constant(False),
                "first_id": maybe(TEXT),
                "last_id": maybe(TEXT),
            }
        ),
    }


def limits() -> str:
    """What programs may use, as Markdown."""
    return (
        f"A person may make {settings.API_REQUESTS_PER_MINUTE} calls a minute that start a run and "
        f"have {settings.RUNS_PER_USER} runs and {settings.STREAMS_PER_USER} streams at a time; a "
        f"body may have {settings.API_BODY_MAX_BYTES:,} bytes."
    )
