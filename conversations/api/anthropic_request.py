"""What a call of POST /v1/messages asks for, from Anthropic's form to ours.

Source: Anthropic API reference, "Create a Message".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from conversations.api import messages
from conversations.api.completions import (
    EFFORTS,
    MOST_STOP,
    MOST_STOPS,
    MOST_TOKENS,
    MOST_TOOLS,
    YES,
    Completion,
    read_schema,
)
from conversations.api.fields import Fields, mapping, storable, text
from conversations.api.messages import MOST_MESSAGES, MOST_PARTS, Draft
from providers.adapters.base import (
    ChatMessage,
    Effort,
    JSONObject,
    Parameters,
    Schema,
    ToolCall,
)

LEAST_BUDGET: Final = 1_024  # tokens of thinking
TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
BETWEEN: Final = "\n\n"  # texts of one message that came in several blocks
# What is used here, and what changes nothing that anybody could see.
KNOWN: Final = frozenset(
    "model messages system max_tokens temperature top_p stop_sequences tools tool_choice thinking "
    "output_config stream metadata service_tier cache_control inference_geo".split()
)
ELSEWHERE: Final = ("mcp_servers", "container")  # what Anthropic's own servers do


@dataclass(frozen=True, slots=True)
class Wanted(Completion):
    """A call, and whether its answer is to have the model's thinking: most who never asked for it
    take the first block of an answer for its text."""

    shows_thinking: bool = False


def read(call: Fields, save: str = "") -> Wanted:
    """What the body of a call asks for; `save` is the header that says whether it is to be kept.
    Raises BadParameter."""
    call.required("max_tokens")
    return _read(call, save)


def read_for_count(call: Fields) -> Wanted:
    """The same where nothing is answered, so no limit is needed. Raises BadParameter."""
    return _read(call, "")


def _read(call: Fields, save: str) -> Wanted:
    call.required("model")
    for name in ELSEWHERE:
        if call.raw(name):
            call.refuse(name, "This is done by Anthropic's own servers alone.")
    thinking = call.inner("thinking")
    return Wanted(
        model=call.text("model", most=200) or "",
        drafts=_drafts(call),
        parameters=_parameters(call, thinking),
        streams=call.flag("stream") or False,
        is_saved=save.strip().lower() in YES,
        ignored=sorted(name for name in call if name not in KNOWN and name.isidentifier())[:20],
        shows_thinking=thinking is not None
        and thinking.raw("type") != "disabled"
        and thinking.raw("display") != "omitted",
    )


# ---- parameters


def _parameters(call: Fields, thinking: Fields | None) -> Parameters:
    most = call.whole("max_tokens", 1, MOST_TOKENS)
    output = call.inner("output_config")
    effort = _effort(output)
    tokens: int | None = None
    if thinking is not None:
        effort, tokens = _thinking(thinking, effort, most)
    choice, is_parallel = _choice(call)
    return Parameters(
        temperature=call.number("temperature", 0, 2),
        top_p=call.number("top_p", 0, 1),
        max_tokens=most,
        reasoning_effort=effort,
        reasoning_tokens=tokens,
        schema=_schema(output),
        tools=[_tool(tool) for tool in call.each("tools", most=MOST_TOOLS)],
        tool_choice=choice,
        parallel_tool_calls=is_parallel,
        stop=_stops(call),
    )


def _effort(output: Fields | None) -> Effort | None:
    named = output.choice("effort", EFFORTS) if output else None
    return EFFORTS[named] if named else None


def _thinking(
    thinking: Fields, effort: Effort | None, most: int | None
) -> tuple[Effort | None, int | None]:
    """How much to think, as a degree and as a number of tokens: kinds take the one or the other."""
    match thinking.raw("type"):
        case "disabled":
            return Effort.NONE, None
        case "adaptive":
            return effort or Effort.HIGH, None  # as Anthropic has it where nothing is said
        case "enabled":
            thinking.required("budget_tokens")
            budget = thinking.whole("budget_tokens", LEAST_BUDGET, MOST_TOKENS) or LEAST_BUDGET
            if most is not None and budget >= most:
                thinking.refuse("budget_tokens", "This has to be less than “max_tokens”.")
            return effort or _degree(budget), budget
    thinking.refuse("type", "Give one of enabled, adaptive, disabled here.")


def _degree(budget: int) -> Effort:
    """The degree of thinking that so many tokens come nearest to."""
    if budget <= 4_096:
        return Effort.LOW
    return Effort.MEDIUM if budget <= 12_288 else Effort.HIGH


def _schema(output: Fields | None) -> Schema | None:
    asked = output.inner("format") if output else None
    if asked is None:
        return None
    if asked.raw("type") != "json_schema":
        asked.refuse("type", "Give “json_schema” here.")
    return read_schema(asked)


def _stops(call: Fields) -> tuple[str, ...]:
    items = call.items("stop_sequences", most=MOST_STOPS)
    return tuple(text(item, place, most=MOST_STOP) for item, place in items if item != "")


def _tool(tool: Fields) -> JSONObject:
    if tool.raw("type") not in (None, "custom"):
        tool.refuse(
            "type", "Only tools of your own can be used here, with “name” and “input_schema”."
        )
    name = tool.text("name") or ""
    if not TOOL_NAME.fullmatch(name):
        tool.refuse("name", "Give a name of up to 128 letters, digits, _ and - here.")
    told: JSONObject = {"name": name}
    if (description := tool.text("description")) is not None:
        told["description"] = description
    place = tool.place("input_schema")
    told["parameters"] = storable(mapping(tool.required("input_schema"), place), place)
    if (strict := tool.flag("strict")) is not None:
        told["strict"] = strict
    return {"type": "function", "function": told}


def _choice(call: Fields) -> tuple[str | JSONObject | None, bool | None]:
    """Which tool has to be used, and whether several may be at a time."""
    choice = call.inner("tool_choice")
    if choice is None:
        return None, None
    tools = call.each("tools", most=MOST_TOOLS)
    kind = choice.raw("type")
    if not tools:
        if kind in ("auto", "none"):
            return None, None
        call.refuse("tool_choice", "There are no “tools” to choose from.")
    is_parallel = False if choice.flag("disable_parallel_tool_use") else None
    match kind:
        case "auto" | "none":
            return kind, is_parallel
        case "any":
            return "required", is_parallel
        case "tool":
            name = choice.text("name")
            if name not in [tool.raw("name") for tool in tools]:
                choice.refuse("name", "This names none of the “tools”.")
            return {"type": "function", "function": {"name": name}}, is_parallel
    choice.refuse("type", "Give one of auto, any, tool, none here.")


# ---- messages


def _drafts(call: Fields) -> list[Draft]:
    call.required("messages")
    turns = call.each("messages", most=MOST_MESSAGES)
    if not turns:
        call.refuse("messages", "Give at least one message.")
    drafts: list[Draft] = []
    if "system" in call:
        drafts.append(Draft(ChatMessage("system", _texts(call, "system"))))
    made: set[str] = set()  # the ids of the tool calls so far
    for turn in turns:
        turn.required("role")
        role = turn.choice("role", ("user", "assistant", "system"))
        if turn.raw("content") in ("", []) and role != "assistant":
            turn.refuse("content", "This is empty.")
        match role:
            case "assistant":
                drafts.append(_answer(turn, made))
            case "system":
                drafts.append(Draft(ChatMessage("system", _texts(turn, "content"))))
            case _:
                drafts += _question(turn, made)
    messages.check_images(drafts, call, "messages")
    return drafts


def _answer(turn: Fields, made: set[str]) -> Draft:
    said: list[str] = []
    calls: list[ToolCall] = []
    for block in _blocks(turn, "content"):
        match block.raw("type"):
            case "text":
                said.append(_text(block))
            case "tool_use":
                calls.append(_call(block))
            case "thinking" | "redacted_thinking":
                pass  # who thought it would not know it again: it is not signed here
            case _:
                block.refuse("type", "Give a block of the type text or tool_use here.")
    made.update(call.id for call in calls)
    return Draft(ChatMessage("assistant", BETWEEN.join(said), (), calls))


def _question(turn: Fields, made: set[str]) -> list[Draft]:
    """What a user said, after the results of tools that came with it: those belong to the answer
    before, and some take them only right after it."""
    results: list[Draft] = []
    said: list[str] = []
    images: list[tuple[bytes, str]] = []
    for block in _blocks(turn, "content"):
        match block.raw("type"):
            case "text":
                said.append(_text(block))
            case "image":
                images.append(_image(block))
            case "tool_result":
                result, seen = _result(block, made)
                results.append(Draft(result))
                images += seen
            case _:
                block.refuse("type", "Give a block of the type text, image or tool_result here.")
    if results and not said and not images:
        return results
    return [*results, Draft(ChatMessage("user", BETWEEN.join(said)), images)]


def _result(block: Fields, made: set[str]) -> tuple[ChatMessage, list[tuple[bytes, str]]]:
    """What a tool gave, and the images in it, which only a user's message can have."""
    block.required("tool_use_id")
    told_for = block.text("tool_use_id", most=200) or ""
    if told_for not in made:
        block.refuse("tool_use_id", "No message before this one has a tool_use with this id.")
    said: list[str] = []
    images: list[tuple[bytes, str]] = []
    for part in _blocks(block, "content") if "content" in block else ():
        match part.raw("type"):
            case "text":
                said.append(_text(part))
            case "image":
                images.append(_image(part))
            case _:
                part.refuse("type", "Give a block of the type text or image here.")
    content = BETWEEN.join(said)
    if block.flag("is_error"):
        content = f"Error: {content}"
    return ChatMessage("tool", content, tool_call_id=told_for), images


def _call(block: Fields) -> ToolCall:
    """A tool call that an earlier answer made."""
    block.required("id")
    block.required("name")
    place = block.place("input")
    given = storable(mapping(block.raw("input") or {}, place), place)
    return ToolCall(
        block.text("id", most=200) or "",
        block.text("name", most=200) or "",
        json.dumps(given, ensure_ascii=False, separators=(",", ":")),
    )


def _texts(fields: Fields, name: str) -> str:
    said: list[str] = []
    for block in _blocks(fields, name):
        if block.raw("type") != "text":
            block.refuse("type", "Give a block of the type text here.")
        said.append(_text(block))
    return BETWEEN.join(said)


def _text(block: Fields) -> str:
    block.required("text")
    return block.text("text") or ""


def _image(block: Fields) -> tuple[bytes, str]:
    """The bytes of an image. No other address is asked: that would be for the server to fetch."""
    source = block.inner("source")
    if source is None or source.raw("type") != "base64":
        block.refuse(
            "source",
            "Send the image itself, as {“type”: “base64”, “media_type”: “image/png”, “data”: …}.",
        )
    source.required("data")
    return messages.image_bytes(source.text("data") or "", source, "data")


def _blocks(fields: Fields, name: str) -> Sequence[Fields]:
    """The blocks of a content; a text stands for one block of it."""
    content = fields.required(name)
    place = fields.place(name)
    if isinstance(content, str):
        return [Fields({"type": "text", "text": text(content, place)}, place)]
    items = fields.items(name, most=MOST_PARTS)
    return [Fields(mapping(item, place), place) for item, place in items]
