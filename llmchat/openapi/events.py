"""The events of streams (contract S2 to S8), and the values in them."""

from typing import Final

from conversations.api.errors import STATUSES
from conversations.models import Run
from llmchat.openapi.shapes import (
    ANY,
    COUNT,
    FLAG,
    FREE,
    ID,
    MOMENT,
    NUMBER,
    PATH,
    TEXT,
    UUID,
    array,
    event,
    maybe,
    one_of,
    record,
    ref,
    told,
)
from providers.pricing import CostSource

CODES: Final = tuple(STATUSES)  # each code that a run can end with has its status there
SOURCES: Final = tuple(str(source) for source in CostSource)
FINISH_REASONS: Final = ("stop", "length", "tool_calls", "content_filter", "stopped")
SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
PIECE_FIELDS: Final = {
    "content": told(TEXT, "A piece of text."),
    "tokens": told(COUNT, "Estimated, of all pieces so far."),
    "earlier?": told(FLAG, "True for what runs before this one wrote of the same answer."),
}
CHECK_FIELDS: Final = {
    "length": told(COUNT, "Characters (code points) of the answer."),
    "sha256": told(SHA256, "Of the UTF-8 bytes of the answer."),
}

SCHEMAS: Final = {
    "Metrics": record(
        {
            "prompt_tokens": maybe(COUNT),
            "completion_tokens": maybe(COUNT),
            "total_tokens": maybe(COUNT),
            "reasoning_tokens": maybe(COUNT),
            "cached_tokens": maybe(COUNT),
            "cost_usd": told(maybe(NUMBER), "Null where it is unknown, which is not 0."),
            "cost_source": told(one_of(SOURCES), "Where the cost comes from."),
            "processing_time": told(NUMBER, "Seconds."),
            "time_to_first_chunk": told(maybe(NUMBER), "Seconds."),
            "tokens_per_second": maybe(NUMBER),
            "estimated": told(FLAG, "True where the provider gave no counts."),
        },
        "What a run used. Null is unknown, 0 was measured.",
    ),
    "Receipt": record(
        {
            "stopped_by": told(maybe(TEXT), "A user name."),
            "stopped_at": MOMENT,
            "after_event": told(maybe(COUNT), "The number of the last event before the stop."),
            "provider_closed_in": told(
                maybe(NUMBER), "Seconds until the connection to the provider was closed."
            ),
        },
        "How a run was stopped.",
    ),
    "Attachment": record(
        {
            "id": UUID,
            "name": TEXT,
            "media_type": TEXT,
            "width": told(COUNT, "Pixels."),
            "height": told(COUNT, "Pixels."),
            "size": told(COUNT, "Bytes."),
            "url": PATH,
        },
        "An image that belongs to a message, or will.",
    ),
    "MetadataEvent": event(
        "metadata",
        {
            "run_id": UUID,
            "user_message_id": told(maybe(ID), "Null for a run outside of sessions."),
            "user_prompt": TEXT,
            "input_tokens": told(COUNT, "Estimated, over everything that is sent."),
            "context_size": told(COUNT, "How many earlier messages are sent."),
            "continues?": told(
                record({"message_id": ID, "tokens": COUNT}),
                "For a run that goes on with an answer: which, and its tokens before.",
            ),
        },
        "First of all: what was stored, before the provider is called.",
    ),
    "ContextMessage": record(
        {
            "id": maybe(ID),
            "role": one_of(["system", "user", "assistant", "tool"]),
            "content": TEXT,
            "tokens": told(COUNT, "Estimated."),
            "created_at": maybe(MOMENT),
        },
        "An earlier message that is sent along.",
    ),
    "RequestDataEvent": event(
        "request_data",
        {
            "metadata": record(
                {
                    "provider": told(TEXT, "The kind."),
                    "configuration": told(TEXT, "The slug."),
                    "model": TEXT,
                    "endpoint": told(TEXT, "The URL called."),
                    "timestamp": MOMENT,
                    "run_id": UUID,
                    "session_id": maybe(UUID),
                    "message_id": maybe(ID),
                }
            ),
            "parameters": record(
                {
                    "temperature": maybe(NUMBER),
                    "max_tokens": maybe(COUNT),
                    "top_p": maybe(NUMBER),
                    "context_limit": maybe(COUNT),
                    "actual_context_size": COUNT,
                },
                "And the rarer ones, where they are used.",
            ),
            "system_instructions": TEXT,
            "context_messages": array(ref("ContextMessage")),
            "left_out": array(
                record({"id": maybe(ID), "reason": one_of(["failed", "limit", "window"])})
            ),
            "current_prompt": TEXT,
            "full_request_body": told(
                FREE, "The JSON body that goes to the provider, key for key. No secret is in it."
            ),
        },
        "What is sent, exactly. The one event with a name: `event: request_data`.",
    ),
    "RetryEvent": event(
        "retry",
        {
            "attempt": told(COUNT, "The one that comes next."),
            "max_attempts": COUNT,
            "delay": told(NUMBER, "Seconds until then."),
            "code": one_of(CODES),
        },
        "The provider is asked again; only before the first chunk.",
    ),
    "ChunkEvent": event(
        "chunk", PIECE_FIELDS, "A piece of the answer: joined, they are all of it."
    ),
    "ReasoningEvent": event(
        "reasoning",
        PIECE_FIELDS,
        "A piece of the model's thinking, which is no part of the answer.",
    ),
    "ToolCallEvent": event(
        "tool_call",
        {
            "index": told(COUNT, "Which call, where there are several."),
            "id": TEXT,
            "name": TEXT,
            "arguments": told(TEXT, "A piece of JSON text."),
        },
        "A piece of a tool call.",
    ),
    "BlockEvent": event(
        "block",
        {
            "index": told(COUNT, "The block that this one replaces."),
            "html": told(TEXT, "Sanitised."),
            "open": told(FLAG, "Whether more of it may come."),
            "tokens": told(COUNT, "Estimated, of the answer so far."),
        },
        "A rendered block, in place of chunks, with `view=html`.",
    ),
    "DoneEvent": event(
        "done",
        {
            "assistant_message_id": told(maybe(ID), "Null where nothing was kept."),
            "full_response": TEXT,
            **CHECK_FIELDS,
            "finish_reason": maybe(one_of(FINISH_REASONS)),
            "provider_finish_reason": told(maybe(TEXT), "The provider's own word."),
            "stopped": FLAG,
            "receipt?": told(ref("Receipt"), "For a run that was stopped."),
            "structured?": told(
                record(
                    {
                        "schema": TEXT,
                        "valid": maybe(FLAG),
                        "problems": array(record({"path": TEXT, "message": TEXT})),
                    }
                ),
                "For an answer that was to be JSON: whether it is valid, and why not.",
            ),
            "attachments?": told(
                array(ref("Attachment")), "Those of a question that went back to its writer."
            ),
            "metrics": ref("Metrics"),
        },
        "The end of an answer, stopped or not; it is stored by then.",
    ),
    "ErrorEvent": event(
        "error",
        {
            "code": one_of(CODES),
            "message": told(TEXT, "For people: who failed, and what to do."),
            "recoverable": told(FLAG, "Whether trying again may help."),
            "retry_after": told(maybe(NUMBER), "Seconds, null where none is known."),
            "assistant_message_id": maybe(ID),
            **CHECK_FIELDS,
        },
        "The end of a run that failed; what there is of its answer is kept.",
    ),
    "BoardEntry": record(
        {
            "run_id": UUID,
            "user": maybe(TEXT),
            "configuration": TEXT,
            "model": TEXT,
            "provider": TEXT,
            "origin": TEXT,
            "started_at": MOMENT,
            "process": told(TEXT, "A short id."),
            "is_stopping": FLAG,
            "state": one_of(["waiting", "thinking", "streaming", "stalled", "running", "lost"]),
            "age": told(NUMBER, "Seconds since its start."),
            "silent": told(maybe(NUMBER), "Seconds since something came."),
            "time_to_first_chunk": maybe(NUMBER),
            "characters": maybe(COUNT),
            "tokens": maybe(COUNT),
            "tokens_per_second": maybe(NUMBER),
            "attempt": maybe(COUNT),
        },
        "A run in flight. What its process has not told is null.",
    ),
    "RunsEvent": event(
        "runs",
        {
            "whole": told(FLAG, "Whether this is all there is, whatever was told before."),
            "total": told(COUNT, "Runs in flight that you may see."),
            "runs": array(ref("BoardEntry")),
            "ended": array(
                record({"run_id": UUID, "status": one_of([*Run.Status.values, "deleted"])})
            ),
        },
        "What is new on the live board.",
    ),
    "ProbeEvent": event(
        "probe",
        {"number": ID, "of": ID, "sent_at": told(NUMBER, "Seconds since the first event.")},
        "An event whose moment of sending is known.",
    ),
    "ProbeEndEvent": event("probe_end", {"sent_at": NUMBER}, "The last event, after a silence."),
    "TextEvent": record(
        {
            "text": told(TEXT, "A piece of the answer; `[DONE]` at the end."),
            "metadata": record({"model": TEXT, "provider": TEXT, "timestamp": MOMENT}),
            "error?": told(
                record({"code": TEXT, "message": TEXT}), "Why the answer ends here, if it failed."
            ),
        },
        "A piece of text.",
    ),
    "Anything": told(ANY, "Any JSON value."),
}
RUN_EVENTS: Final = (
    "MetadataEvent",
    "RequestDataEvent",
    "RetryEvent",
    "ChunkEvent",
    "ReasoningEvent",
    "ToolCallEvent",
    "BlockEvent",
    "DoneEvent",
    "ErrorEvent",
)
