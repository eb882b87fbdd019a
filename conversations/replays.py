"""Sending a recorded request again: unchanged, with another body, or to another configuration.

A replay is a run without a session: it costs and is logged like any other, and stays out of the
chat that it comes from.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isinf
from typing import Any
from uuid import UUID

from conversations import attachments
from conversations.context import Given, Picture
from conversations.errors import BadValue
from conversations.journal import stored_events
from conversations.models import Origin, Run
from conversations.planning import Asked, Source
from conversations.records import body_of
from providers import schemas
from providers.adapters.base import ChatMessage, Effort, Feature, Parameters, ToolCall
from providers.models import AnswerSchema, Configuration

LIMIT = 1_000_000  # characters of a body that is typed


def unchanged(run: Run) -> Asked:
    """What asks for the very bytes again that `run` sent last. Raises BadValue."""
    return replace(_again(run, run.configuration), body=_body(run))


def edited(run: Run, body: str) -> Asked:
    """What asks the same configuration with this JSON text as the body. Raises BadValue."""
    return replace(_again(run, run.configuration), body=_object(body))


def elsewhere(run: Run, configuration: Configuration) -> Asked:
    """What asks another configuration with the same messages and parameters. (Not with an API
    caller's tools: of those only the body tells all, in its provider's own way.)"""
    return _again(run, configuration)


def _again(run: Run, configuration: Configuration | None) -> Asked:
    sent = request_data(run)
    if not sent:
        raise BadValue("how", "Nothing was sent, so there is nothing to send again.")
    can_see = configuration is not None and configuration.supports(Feature.VISION)
    prompt = {"role": "user", "content": sent["current_prompt"], **_of("attachments", sent)}
    system = {"role": "system", "content": sent["system_instructions"]}
    said = [*sent["context_messages"], prompt]
    if system["content"]:
        said.insert(0, system)
    return Asked(
        prompt=sent["current_prompt"],
        parameters=_parameters(sent["parameters"]),
        messages=tuple(_given(message, can_see=can_see) for message in said),
        source=Source(Origin.REPLAY, replay_of=run.pk),
    )


def request_data(run: Run) -> dict[str, Any]:
    """The `request_data` event of a run (S5); empty if it has none."""
    opening = stored_events(run.pk)
    return next((event.fields for event in opening if event.type == "request_data"), {})


def _given(message: Mapping[str, Any], *, can_see: bool) -> Given:
    pictures = list(_pictures(message.get("attachments", ())))
    images = attachments.images([picture.id for picture in pictures]) if can_see else {}
    shown = [picture for picture in pictures if picture.id in images]
    words = [picture.words for picture in pictures if picture.id not in images]
    return Given(
        ChatMessage(
            message["role"],
            "\n\n".join(filter(None, [message["content"], *words])),
            tuple(images[picture.id] for picture in shown),
            tuple(ToolCall(**call) for call in message.get("tool_calls", ())),
            message.get("tool_call_id", ""),
        ),
        shown,
    )


def _pictures(told: Iterable[Mapping[str, Any]]) -> Iterable[Picture]:
    for picture in told:
        yield Picture(UUID(picture["id"]), picture["name"], picture["width"], picture["height"])


def _parameters(told: Mapping[str, Any]) -> Parameters:
    effort = told.get("reasoning_effort")
    return Parameters(
        temperature=told.get("temperature"),
        top_p=told.get("top_p"),
        max_tokens=told.get("max_tokens"),
        reasoning_tokens=told.get("reasoning_tokens"),
        reasoning_effort=Effort(effort) if effort else None,
        schema=_schema(told.get("schema")),
    )


def _schema(name: str | None) -> Any:
    """The one that is kept under this name. The configuration's own is not asked for again."""
    kept = AnswerSchema.objects.filter(slug=name).first() if name else None
    return kept.value if kept else schemas.NONE


def _body(run: Run) -> dict[str, Any]:
    call = run.calls.last()
    if call is None:
        raise BadValue("how", "There is no record of this request, so it cannot be sent again.")
    return _object(body_of(call).decode())


def _object(text: str) -> dict[str, Any]:
    if len(text) > LIMIT:
        raise BadValue("body", f"This is too long; {LIMIT:,} characters are the most.")
    try:
        body = json.loads(text, parse_constant=_refused, parse_float=_finite)
        json.dumps(body, ensure_ascii=False).encode()  # half a character can be spelt in JSON
    except (ValueError, RecursionError) as error:
        raise BadValue("body", f"This is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise BadValue("body", 'Write an object, as {"model": "…"}.')
    return body


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _of(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told[name]} if name in told else {}
