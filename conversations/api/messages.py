"""The messages of a call, from OpenAI's form to ours (Chat Completions, `messages`)."""

import asyncio
import base64
import binascii
import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from django.conf import settings

from conversations import pictures
from conversations.api.errors import BadParameter
from conversations.api.fields import Fields, mapping, text
from conversations.context import MOST_IMAGES, Given, Picture
from providers.adapters.base import ChatMessage, Image, ToolCall

MOST_MESSAGES: Final = 10_000
MOST_PARTS: Final = 1_000  # of a message, and tool calls of one
ROLES: Final = ("system", "developer", "user", "assistant", "tool")
DATA_URL: Final = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)

# Beside the event loop, one at a time: an image may take a second and 300 MB.
_pool = ThreadPoolExecutor(1, thread_name_prefix="api-images")


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as far as it can be read at once: its images are bytes that nobody looked at,
    each with its place in the request."""

    message: ChatMessage
    images: Sequence[tuple[bytes, str]] = ()


def read(call: Fields, name: str = "messages") -> list[Draft]:
    """The messages of a call, in their order. Raises BadParameter."""
    call.required(name)
    messages = call.each(name, most=MOST_MESSAGES)
    if not messages:
        call.refuse(name, "Give at least one message.")
    drafts = [_draft(message) for message in messages]
    check_images(drafts, call, name)
    check_results(drafts, call, name)
    return drafts


async def prepared(drafts: Sequence[Draft]) -> tuple[Given, ...]:
    """The same with their images made fit for a model. Raises BadParameter."""
    if not any(draft.images for draft in drafts):
        return tuple(Given(draft.message) for draft in drafts)
    return await asyncio.get_running_loop().run_in_executor(_pool, _prepared, drafts)


def prompt_of(drafts: Sequence[Draft]) -> str:
    """The last thing that a user said: what a list of runs shows."""
    said = [draft.message.content for draft in drafts if draft.message.role == "user"]
    return said[-1] if said else ""


def check_images(drafts: Sequence[Draft], call: Fields, name: str) -> None:
    """Raises BadParameter for more images than a model may be sent."""
    if sum(len(draft.images) for draft in drafts) > MOST_IMAGES:
        call.refuse(name, f"At most {MOST_IMAGES} images can be sent.")


def image_bytes(data: str, fields: Fields, name: str) -> tuple[bytes, str]:
    """The bytes of an image that came as base64 in this field, which nobody has looked at yet, and
    its place. Raises BadParameter."""
    try:
        read = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        fields.refuse(name, "This is not base64.")
    if len(read) > settings.ATTACHMENT_MAX_BYTES:
        fields.refuse(name, f"An image may have {settings.ATTACHMENT_MAX_BYTES:,} bytes at most.")
    return read, fields.place(name)


def _draft(fields: Fields) -> Draft:
    fields.required("role")
    match fields.choice("role", ROLES):
        case "tool":
            fields.required("tool_call_id")
            told_for = fields.text("tool_call_id", most=200) or ""
            return Draft(ChatMessage("tool", _texts(fields), tool_call_id=told_for))
        case "assistant":
            calls = [_call(call) for call in fields.each("tool_calls", most=MOST_PARTS)]
            has_text = "content" in fields or not calls
            return Draft(ChatMessage("assistant", _texts(fields) if has_text else "", (), calls))
        case "user":
            return _question(fields)
    return Draft(ChatMessage("system", _texts(fields)))


def _texts(fields: Fields) -> str:
    """The content of a message that is text alone, in one piece or in parts."""
    draft = _question(fields)
    if draft.images:
        fields.refuse("content", "Only the messages of a user can have images.")
    return draft.message.content


def _question(fields: Fields) -> Draft:
    content = fields.required("content")
    if isinstance(content, str):
        return Draft(ChatMessage("user", text(content, fields.place("content"))))
    said: list[str] = []
    images: list[tuple[bytes, str]] = []
    for item, place in fields.items("content", most=MOST_PARTS):
        part = Fields(mapping(item, place), place)
        match part.raw("type"):
            case "text" | "refusal" as kind:
                part.required(kind)
                said.append(part.text(kind) or "")
            case "image_url":
                part.required("image_url")
                images.append(read_image(part))
            case _:
                part.refuse("type", "Give a part of the type text or image_url here.")
    return Draft(ChatMessage("user", "\n".join(said)), images)


def read_image(part: Fields) -> tuple[bytes, str]:
    """The bytes in the data URL of a part, and its place. No other address is asked: that would be
    for the server to fetch. Raises BadParameter."""
    told = part.raw("image_url")
    inner = Fields({"url": told}, part.place("image_url")) if isinstance(told, str) else None
    inner = inner or part.inner("image_url")
    url = inner.text("url") if inner else None
    if inner is None or not url:
        part.refuse("image_url", "Give {“url”: “data:image/…;base64,…”} here.")
    start = DATA_URL.match(url)
    if start is None:
        inner.refuse("url", "Send the image itself, as data:image/png;base64,…")
    return image_bytes(url[start.end() :], inner, "url")


def _call(fields: Fields) -> ToolCall:
    """A tool call that an earlier answer made."""
    if fields.raw("type") not in (None, "function"):
        fields.refuse("type", "Only calls of functions are known.")
    fields.required("id")
    function = fields.inner("function")
    if function is None:
        fields.refuse("function", "Give {“name”, “arguments”} here.")
    function.required("name")
    arguments = function.raw("arguments")
    if isinstance(arguments, dict):  # some clients send what they parsed
        arguments = json.dumps(arguments)
    return ToolCall(
        fields.text("id", most=200) or "",
        function.text("name", most=200) or "",
        text(arguments or "{}", function.place("arguments")),
    )


def check_results(drafts: Sequence[Draft], call: Fields, name: str) -> None:
    """Each result belongs to a call before it: providers refuse others in words of their own."""
    made: set[str] = set()
    for index, draft in enumerate(drafts):
        made.update(tool_call.id for tool_call in draft.message.tool_calls)
        if draft.message.role == "tool" and draft.message.tool_call_id not in made:
            raise BadParameter(
                f"{call.place(name)}[{index}].tool_call_id",
                "No message before this one has a tool call with this id.",
            )


def _prepared(drafts: Sequence[Draft]) -> tuple[Given, ...]:
    return tuple(_given(draft) for draft in drafts)


def _given(draft: Draft) -> Given:
    images: list[Image] = []
    about: list[Picture] = []
    for number, (data, place) in enumerate(draft.images, 1):
        try:
            picture = pictures.prepared(io.BytesIO(data), settings.ATTACHMENT_MAX_SIDE)
        except pictures.BadPicture as error:
            raise BadParameter(place, str(error)) from None
        images.append(Image(picture.media_type, base64.b64encode(picture.data).decode()))
        about.append(Picture(uuid4(), f"image {number}", picture.width, picture.height))
    return Given(replace(draft.message, images=tuple(images)), tuple(about))
