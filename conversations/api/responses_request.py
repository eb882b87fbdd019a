"""What POST /v1/responses asks for, from OpenAI's form to ours.

Source: OpenAI API reference, "Create a model response". Conversations are kept by their callers, as
with Chat Completions: what would need an earlier response is refused.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from conversations.api import messages
from conversations.api.completions import (
    EFFORTS,
    MOST_TOKENS,
    MOST_TOOLS,
    YES,
    Completion,
    read_function,
    read_schema,
    wants_saving,
)
from conversations.api.errors import BadParameter
from conversations.api.fields import Fields, mapping, storable, text
from conversations.api.messages import DATA_URL, MOST_MESSAGES, MOST_PARTS, Draft
from providers import schemas
from providers.adapters.base import ChatMessage, JSONObject, Parameters, Schema, ToolCall

ROLES: Final = ("system", "developer", "user", "assistant")
KEPT_ELSEWHERE: Final = ("previous_response_id", "conversation", "prompt")
# What is used here, and what changes nothing that anybody could see.
KNOWN: Final = frozenset(
    "model input instructions stream max_output_tokens temperature top_p tools tool_choice "
    "parallel_tool_calls text reasoning metadata store background include truncation user "
    "safety_identifier prompt_cache_key service_tier stream_options top_logprobs "
    "previous_response_id conversation prompt".split()
)


@dataclass(frozen=True, slots=True)
class Wanted(Completion):
    """What a call asks for. `echoed` are the fields of it that its response repeats."""

    echoed: JSONObject | None = None


def read(call: Fields, save: str = "") -> Wanted:
    """What the body of a call asks for; `save` is the header that says whether it is to be kept.
    Raises BadParameter."""
    call.required("model")
    for name in KEPT_ELSEWHERE:
        if name in call:
            call.refuse(name, "Responses are not kept here: send the whole conversation as input.")
    if call.flag("background"):
        call.refuse("background", "An answer is waited for here; “stream” shows it as it comes.")
    tools = [_tool(tool) for tool in call.each("tools", most=MOST_TOOLS)]
    schema, is_json = _format(call)
    reasoning = call.inner("reasoning")
    effort = reasoning.choice("effort", EFFORTS) if reasoning else None
    parameters = Parameters(
        temperature=call.number("temperature", 0, 2),
        top_p=call.number("top_p", 0, 1),
        max_tokens=call.whole("max_output_tokens", 1, MOST_TOKENS),
        reasoning_effort=EFFORTS[effort] if effort else None,
        schema=schema,
        tools=tools,
        tool_choice=_choice(call, tools),
        parallel_tool_calls=call.flag("parallel_tool_calls"),
        is_json=is_json,
    )
    return Wanted(
        model=call.text("model", most=200) or "",
        drafts=_drafts(call),
        parameters=parameters,
        streams=call.flag("stream") or False,
        is_saved=save.strip().lower() in YES or wants_saving(call),
        ignored=sorted(name for name in call if name not in KNOWN and name.isidentifier())[:20],
        echoed=_echoed(call, parameters),
    )


def _echoed(call: Fields, parameters: Parameters) -> JSONObject:
    metadata = storable(call.raw("metadata"), "metadata")
    return {
        "instructions": call.text("instructions"),
        "max_output_tokens": parameters.max_tokens,
        "metadata": metadata or {},
        "parallel_tool_calls": parameters.parallel_tool_calls is not False,
        "reasoning": {"effort": call.raw("reasoning") and parameters.reasoning_effort},
        "temperature": parameters.temperature,
        "text": storable(call.raw("text"), "text") or {"format": {"type": "text"}},
        "tool_choice": call.raw("tool_choice") or "auto",
        "tools": [{"type": "function", **tool["function"]} for tool in parameters.tools],
        "top_p": parameters.top_p,
    }


# ---- how to answer


def _tool(tool: Fields) -> JSONObject:
    if tool.raw("type") != "function":
        tool.refuse("type", "Give “function” here: other tools are not known.")
    return {"type": "function", "function": read_function(tool)}


def _choice(call: Fields, tools: Sequence[JSONObject]) -> str | JSONObject | None:
    choice = call.raw("tool_choice")
    if choice is None or (not tools and choice in ("none", "auto")):
        return None
    if isinstance(choice, str) and tools:
        return call.choice("tool_choice", ("auto", "none", "required"))
    told = call.inner("tool_choice") if tools else None
    name = told.text("name") if told else None
    if name not in {tool["function"]["name"] for tool in tools}:
        call.refuse("tool_choice", "This names none of the “tools”.")
    return {"type": "function", "function": {"name": name}}


def _format(call: Fields) -> tuple[Schema | None, bool]:
    """The schema that the answer has to be valid against, and whether any JSON object will do."""
    told = call.inner("text")
    asked = told.inner("format") if told else None
    if asked is None:
        return None, False
    match asked.raw("type"):
        case "text":
            return schemas.NONE, False
        case "json_object":
            return schemas.NONE, True
        case "json_schema":
            return read_schema(asked), False
    asked.refuse("type", "Give one of text, json_object, json_schema here.")


# ---- the conversation


def _drafts(call: Fields) -> list[Draft]:
    given = call.required("input")
    if isinstance(given, str):
        items = [Draft(ChatMessage("user", text(given, "input")))]
    else:
        items = _joined(_each(call.each("input", most=MOST_MESSAGES)))
    if not items:
        call.refuse("input", "Give a text, or at least one message.")
    messages.check_images(items, call, "input")
    if instructions := call.text("instructions"):
        items.insert(0, Draft(ChatMessage("system", instructions)))
    return items


def _each(items: Sequence[Fields]) -> Iterator[Draft]:
    """The messages of items. Each result belongs to a call before it."""
    made: set[str] = set()
    for item in items:
        if (draft := _draft(item)) is None:
            continue
        made.update(call.id for call in draft.message.tool_calls)
        if draft.message.role == "tool" and draft.message.tool_call_id not in made:
            item.refuse("call_id", "No item before this one is a function_call with this id.")
        yield draft


def _joined(drafts: Iterable[Draft]) -> list[Draft]:
    """The messages of items, of which an answer and each of its tool calls are one apiece."""
    joined: list[Draft] = []
    for draft in drafts:
        last = joined[-1].message if joined else None
        if draft.message.tool_calls and last is not None and last.role == "assistant":
            calls = (*last.tool_calls, *draft.message.tool_calls)
            joined[-1] = Draft(replace(last, tool_calls=calls))
        else:
            joined.append(draft)
    return joined


def _draft(item: Fields) -> Draft | None:
    """The message that an item stands for; None for one that is not sent again."""
    match item.raw("type"):
        case None | "message":
            return _message(item)
        case "function_call":
            made = ToolCall(
                _required(item, "call_id"), _required(item, "name"), _required(item, "arguments")
            )
            return Draft(ChatMessage("assistant", "", (), (made,)))
        case "function_call_output":
            result = _content(item, "output")
            if result.images:
                item.refuse("output", "The result of a tool is text here.")
            id_ = _required(item, "call_id")
            return Draft(ChatMessage("tool", result.message.content, tool_call_id=id_))
        case "reasoning":
            return None
    item.refuse("type", "Give message, function_call, function_call_output or reasoning here.")


def _message(item: Fields) -> Draft:
    item.required("role")
    role = item.choice("role", ROLES)
    said = _content(item, "content")
    if said.images and role != "user":
        item.refuse("content", "Only the messages of a user can have images.")
    told = "system" if role in ("system", "developer") else role or ""
    return Draft(replace(said.message, role=told), said.images)


def _content(item: Fields, name: str) -> Draft:
    content = item.required(name)
    if isinstance(content, str):
        return Draft(ChatMessage("user", text(content, item.place(name))))
    said: list[str] = []
    images: list[tuple[bytes, str]] = []
    for value, place in item.items(name, most=MOST_PARTS):
        part = Fields(mapping(value, place), place)
        match part.raw("type"):
            case "input_text" | "output_text":
                said.append(_required(part, "text"))
            case "refusal":
                said.append(_required(part, "refusal"))
            case "input_image":
                images.append(_image(part))
            case _:
                part.refuse("type", "Give a part of the type input_text or input_image here.")
    return Draft(ChatMessage("user", "\n".join(said)), images)


def _image(part: Fields) -> tuple[bytes, str]:
    url = part.text("image_url") or ""
    start = DATA_URL.match(url)
    if start is None:
        part.refuse("image_url", "Send the image itself, as data:image/png;base64,…")
    return messages.image_bytes(url[start.end() :], part, "image_url")


def _required(fields: Fields, name: str) -> str:
    found = text(fields.required(name), fields.place(name))
    if name != "text" and not found:
        raise BadParameter(fields.place(name), "This is empty.")
    return found
