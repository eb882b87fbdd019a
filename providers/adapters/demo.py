"""Kind `demo`: built in, no network. It answers in Markdown and shows what can go wrong.

The adapter reads a small NDJSON format of its own, one object a line: `{"reasoning": text}`,
`{"text": text}`, `{"tool": {"index", "id", "name", "arguments"}}`,
`{"usage": {"prompt", "completion", "reasoning"}}`, `{"error": {"code", "message"}}` and, last,
`{"end": reason}`.

`answer` is its server: the client hands it each request for demo:// and gets status, headers and
bytes back, so that demo answers and demo errors take the same path as everyone else's.

What is answered follows from the request alone. `pace` in the body (from the configuration's
extra body) is the seconds a piece takes; 0 is as fast as it goes.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import cycle
from typing import Any, Final

from providers.adapters import demo_answers, demo_json
from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Feature,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
)
from providers.adapters.untrusted import count, mapping, mappings, text
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from providers.wire import NDJSON, parse_json, unreadable

PACE: Final = 0.045  # seconds a piece
_SLOWEST_PACE: Final = 10.0
# People do not type like clocks; on average this is 1.
_RHYTHM: Final = (0.7, 1.2, 0.9, 1.3, 0.8, 1.1)


class Demo(Adapter):
    """The built-in provider: the default on a fresh install."""

    kind = "demo"
    label = "Demo (built in)"
    default_base_url = "demo://local"
    is_free = True
    continues_answers = True
    features = frozenset(
        {
            Feature.STREAMING,
            Feature.SYSTEM,
            Feature.JSON_SCHEMA,
            Feature.TOOLS,
            Feature.REASONING,
        }
    )

    def make_splitter(self) -> NDJSON:
        return NDJSON(self.target.name)

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        body: JSONObject = {
            "model": self.target.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "stream": True,
        }
        if parameters.temperature is not None:
            body["temperature"] = parameters.temperature
        if parameters.top_p is not None:
            body["top_p"] = parameters.top_p
        if parameters.max_tokens is not None:
            body["max_tokens"] = parameters.max_tokens
        if parameters.schema is not None:
            body["schema"] = parameters.schema.schema
        elif parameters.is_json:
            body["schema"] = {"type": "object"}
        # The address is always its own: there is no other host to send anything to.
        return ProviderRequest(
            f"{self.default_base_url}/chat",
            self.headers("application/x-ndjson"),
            self.body(body),
        )

    def models_request(self) -> ProviderRequest:
        return ProviderRequest(
            f"{self.default_base_url}/models",
            self.headers("application/json"),
            body={},
            method="GET",
        )

    def models(self, answer: Any) -> list[ModelInfo]:
        return [
            ModelInfo(text(m.get("id")), text(m.get("name")), count(m.get("context_window")))
            for m in mappings(mapping(answer).get("models"))
        ]

    def events(self, frame: Any) -> Iterator[Event]:
        match frame:
            case {"text": str(piece)}:
                yield TextDelta(piece)
            case {"reasoning": str(piece)}:
                yield ReasoningDelta(piece)
            case {"tool": {"index": int(index), "arguments": str(arguments), **first}}:
                call_id, name = text(first.get("id")), text(first.get("name"))
                yield ToolCallDelta(index, call_id, name, arguments)
            case {"usage": {"prompt": prompt, "completion": completion, "reasoning": reasoning}}:
                yield Usage(
                    prompt_tokens=count(prompt),
                    completion_tokens=count(completion),
                    cached_tokens=0,
                    reasoning_tokens=count(reasoning),
                )
            case {"end": str(word)}:
                self.is_complete = True
                yield Finish(FinishReason(word), word)
            case {"error": _}:
                raise self.reported(frame)
            case _:
                raise unreadable(self.target.name)


# --- the server


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response in the making."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be said, and how. `end` None: it breaks off. `pace` multiplies the body's."""

    content: str = ""
    reasoning: str = ""
    tools: Sequence[tuple[str, str, str]] = ()  # id, name, arguments
    end: str | None = "stop"
    pace: float = 1.0
    first_pause: float = 0.0  # in pieces' times
    error: str | None = None  # the code of the error to end with, after this many pieces
    error_after: int | None = None
    is_silent: bool = False
    limit: int | None = None  # words


def answer(path: str, content: bytes) -> Answer:
    """The response to a request: /models, or a chat for any other path."""
    if path == "/models":
        return _json(200, {"models": [{"id": "demo", "name": "Demo", "context_window": 8192}]})
    try:
        body = mapping(parse_json(content.decode("utf-8", "replace")))
    except ValueError:
        body = {}
    messages, schema = list(mappings(body.get("messages"))), body.get("schema")
    if messages and messages[-1].get("role") == "assistant":
        plan = _rest(plan_for(messages[:-1], schema), text(messages[-1].get("content")))
    else:
        plan = plan_for(messages, schema)
    if plan.limit is None:
        plan = replace(plan, limit=count(body.get("max_tokens")))
    if plan.error and plan.error_after is None and plan.error in ERRORS:
        status, code, headers = ERRORS[plan.error]
        return _json(status, _error(plan.error, code), headers)
    prompt_words = sum(len(text(m.get("content")).split()) for m in messages)
    pace = _pace(body.get("pace"))
    return Answer(200, {"Content-Type": "application/x-ndjson"}, _stream(plan, prompt_words, pace))


# For each code of the error tree: status, the provider's own word, headers.
ERRORS: Final[Mapping[str, tuple[int, str, Mapping[str, str]]]] = {
    "PROVIDER_OFFLINE": (502, "provider_unavailable", {}),
    "API_KEY_INVALID": (401, "invalid_api_key", {}),
    "RATE_LIMIT_EXCEEDED": (429, "rate_limit_exceeded", {"Retry-After": "2"}),
    "MODEL_NOT_FOUND": (404, "model_not_found", {}),
    "TIMEOUT": (504, "timeout", {}),
    "CONTEXT_LENGTH_EXCEEDED": (400, "context_length_exceeded", {}),
    "QUOTA_EXCEEDED": (402, "insufficient_quota", {}),
    "CONTENT_FILTERED": (400, "content_filter", {}),
    "INVALID_REQUEST": (400, "invalid_value", {}),
    "PROVIDER_OVERLOADED": (503, "overloaded_error", {}),
    "PROVIDER_ERROR": (500, "server_error", {}),
}
INTERRUPTED: Final = "STREAM_INTERRUPTED"  # has no word: the stream just ends


def plan_for(messages: Sequence[JSONObject], schema: Any = None) -> Plan:
    """What the last user message asks for: a command, else JSON by a schema, else an ordinary
    answer."""
    said = [text(m.get("content")) for m in messages if m.get("role") == "user"]
    prompt = said[-1] if said else ""
    command = re.match(r"\s*/demo(?:\s+(\S+)(?:\s(.*))?)?\s*\Z", prompt, re.DOTALL)
    if not command and schema is not None:
        return Plan(json.dumps(demo_json.example(schema, prompt), indent=2, ensure_ascii=False))
    if not command:
        return Plan(demo_answers.ordinary(prompt, messages))
    name, rest = (command[1] or "help").lower(), command[2] or ""
    match name:
        case "help":
            return Plan(demo_answers.HELP, pace=0.4)
        case "reasoning":
            return Plan(demo_answers.AFTER_REASONING, reasoning=demo_answers.REASONING)
        case "error":
            return _error_plan(rest)
        case "slow":
            return Plan(demo_answers.ordinary(rest, messages), pace=6, first_pause=120)
        case "long":
            return Plan(demo_answers.long(3_000))
        case "fast":
            return Plan(demo_answers.ordinary(rest, messages), pace=0)
        case "tools":
            return Plan(demo_answers.BEFORE_TOOLS, tools=demo_answers.TOOLS, end="tool_calls")
        case "length":
            return Plan(demo_answers.ordinary(rest, messages), limit=40)
        case "filter":
            return Plan(demo_answers.BEFORE_FILTER, end="content_filter")
        case "markdown":
            return Plan(demo_answers.TOUR, pace=0.3)
        case "echo":
            # Not from `rest`, which has lost the white space at its end.
            return Plan(re.sub(r"\A\s*/demo\s+echo\s?", "", prompt, flags=re.I), pace=0)
        case "silent":
            return Plan(is_silent=True)
        case "cut":
            return Plan(demo_answers.BEFORE_CUT, end=None)
    return Plan(demo_answers.unknown(name), pace=0.4)


def _rest(plan: Plan, said: str) -> Plan:
    """What is left to say after `said`; this time nothing breaks off."""
    content = plan.content if plan.end else plan.content + demo_answers.AFTER_CUT
    if not content.startswith(said):
        return Plan(demo_answers.AFTER_OTHERS)
    return replace(
        plan,
        content=content[len(said) :],
        reasoning="",
        end=plan.end or "stop",
        error=None,
        error_after=None,
    )


def _error_plan(rest: str) -> Plan:
    asked = re.fullmatch(r"\s*(\w+)(?:\s+after\s+(\d{1,5}))?\s*", rest, re.IGNORECASE)
    code = asked[1].upper() if asked else ""
    if not asked or code not in {*ERRORS, INTERRUPTED}:
        return Plan(demo_answers.unknown_code(code, [*ERRORS, INTERRUPTED]), pace=0.4)
    after = int(asked[2]) if asked[2] else None
    if code == INTERRUPTED and not after:
        return Plan(end=None)
    return Plan(demo_answers.long(max(after or 0, 60)), error=code, error_after=after)


async def _stream(plan: Plan, prompt_words: int, pace: float) -> AsyncIterator[bytes]:
    """The lines of an answer, each when its time has come."""
    if plan.is_silent:
        await asyncio.Event().wait()  # until the client gives up
    await asyncio.sleep(plan.first_pause * pace)
    rhythm = cycle(_RHYTHM)
    words = {"reasoning": 0, "text": 0, "tool": 0}
    end = plan.end
    for sent, (name, value, size) in enumerate(_pieces(plan)):
        if plan.error and sent == plan.error_after:
            break
        if name == "text" and plan.limit is not None and words["text"] + size > plan.limit:
            end = "length"
            break
        yield _line({name: value})
        words[name] += size
        await asyncio.sleep(pace * plan.pace * next(rhythm))
    if plan.error == INTERRUPTED or end is None:
        return
    if plan.error:
        yield _line(_error(plan.error, ERRORS[plan.error][1]))
        return
    usage = {
        "prompt": prompt_words,
        "completion": sum(words.values()),
        "reasoning": words["reasoning"],
    }
    yield _line({"usage": usage})
    yield _line({"end": end})


def _pieces(plan: Plan) -> Iterator[tuple[str, Any, int]]:
    """All there is to say in pieces, each with its size in words."""
    for name, content in (("reasoning", plan.reasoning), ("text", plan.content)):
        for found in re.finditer(r"\s*\S{1,12}|\s+\Z", content):
            begins_word = found.start() == 0 or found[0][0].isspace()
            yield name, found[0], 1 if begins_word and found[0].strip() else 0
    for index, (call_id, name, arguments) in enumerate(plan.tools):
        yield "tool", {"index": index, "id": call_id, "name": name, "arguments": ""}, 1
        for piece in re.findall(r".{1,8}", arguments, re.DOTALL):
            yield "tool", {"index": index, "arguments": piece}, 1


def _pace(asked: Any) -> float:
    """Seconds a piece: what the body says, if that is a number that can be meant."""
    if isinstance(asked, bool) or not isinstance(asked, int | Decimal):
        return PACE
    return float(min(max(asked, 0), _SLOWEST_PACE))


def _error(code: str, word: str) -> JSONObject:
    wait = " Please try again in 2s." if code == "RATE_LIMIT_EXCEEDED" else ""
    said = f"Nothing is wrong: this was asked for with /demo error {code}.{wait}"
    return {"error": {"code": word, "message": said}}


def _json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    async def body() -> AsyncIterator[bytes]:
        yield _line(value)

    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, body())


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
