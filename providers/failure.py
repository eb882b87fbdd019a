"""What a provider's failure means: from its status, headers, words and codes to one of our errors.

The order of decision: machine-readable code or type, then the
message's pattern, then the status. What only one kind means by a word or a status stands in a
small table under its name. Sources: the vendors' error pages and recorded responses.

Every message opens with the configuration's name, quotes the provider's own words (shortened,
without tags and control characters, secrets masked) and says what to do. It is still text from
outside: whoever shows it escapes it.
"""

import html
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from providers.errors import (
    ApiKeyInvalid,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    ProviderError,
    ProviderFailure,
    ProviderOffline,
    ProviderOverloaded,
    ProviderTimeout,
    QuotaExceeded,
    RateLimitExceeded,
    StreamInterrupted,
)
from providers.wire import parse_json, valid_text

WORDS_LENGTH: Final = 300  # characters of the provider's own words in a message
RETRY_AFTER_MAX: Final = 7 * 86_400.0  # seconds; a longer wait is no wait but a mistake
_READ_LENGTH: Final = 4_000  # characters of a message that are looked at: patterns are not free

ErrorClass = type[ProviderError]


@dataclass(frozen=True, slots=True)
class Source:
    """Whose failure it is. `secrets` are texts that must not come back in a message."""

    name: str
    kind: str = ""
    secrets: Collection[str] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Report:
    """What a failure says of itself.

    `codes` are its machine-readable words in lower case, the most telling first; `status` is an
    HTTP status or a number that stands for one.
    """

    message: str = ""
    codes: tuple[str, ...] = ()
    status: int | None = None
    is_moderation: bool = False
    may_retry: bool = False


# Words that decide by themselves, whatever the status. Quota comes first, and is looked for
# among all words: OpenAI's type says it under four codes, Anthropic's code under a rate limit.
_QUOTA_WORDS: Final = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "billing_error",
        "billing_hard_limit_reached",
        "payment_required",
    }
)
_WORDS: Final[Mapping[str, ErrorClass]] = {
    word: error_class
    for error_class, words in {
        ApiKeyInvalid: "invalid_api_key authentication_error authentication permission_error"
        " permission_denied",
        RateLimitExceeded: "rate_limit_exceeded rate_limit_error ratelimitreached slow_down"
        " ramp_limit_exceeded",
        ModelNotFound: "model_not_found",
        ProviderTimeout: "timeout timeout_error",
        ContextLengthExceeded: "context_length_exceeded max_tokens_exceeded token_limit_exceeded"
        " string_too_long payload_too_large exceed_context_size_error too_many_prompt_tokens",
        ContentFiltered: "content_filter content_policy_violation invalid_prompt bio_policy"
        " misalignment_policy_violation refusal",
        InvalidRequest: "unsupported_parameter unsupported_value invalid_value unprocessable"
        " precondition_failed invalid_image tool_use_failed not_supported_error",
        ProviderOverloaded: "server_is_overloaded overloaded_error provider_overloaded"
        " unavailable_error",
        ProviderOffline: "provider_unavailable",
    }.items()
    for word in words.split()
}
# What one kind means by a word that others use for something else.
_KIND_WORDS: Final[Mapping[tuple[str, str], ErrorClass]] = {
    ("openrouter", "not_found"): ModelNotFound,
}
# Words too general to decide, which only stand in for a status where there is none (mid-stream).
_WORD_STATUS: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "badrequesterror": 400,
    "not_found_error": 404,
    "notfounderror": 404,
    "server_error": 500,
    "internalservererror": 500,
    "api_error": 500,
    "server": 500,
    "unmapped": 500,
}

_PATTERN_STATUSES: Final = frozenset({400, 413, 422, 500})
_PATTERNS: Final[tuple[tuple[ErrorClass, re.Pattern[str]], ...]] = tuple(
    (error_class, re.compile(pattern, re.IGNORECASE))
    for error_class, pattern in (
        (
            # Not llama-box's "try again, increasing context size": that is a failure of its own.
            ContextLengthExceeded,
            r"context[_ ]length|context window|maximum context|available context size"
            r"|context the overflows|n_keep .* n_ctx|prompt is too long|prompt too long"
            r"|input (is )?too long|too many prompt tokens|total length of all messages"
            r"|exceed_context_size|exceed context limit|longer than the context",
        ),
        (
            QuotaExceeded,
            r"insufficient[_ ](quota|balance|credit)|credit balance|exceeded your current quota"
            r"|billing",
        ),
        (
            ApiKeyInvalid,
            r"(incorrect|invalid) api[_ -]?key|invalid x-api-key|authentication fails"
            r"|unauthorized",
        ),
        (
            ModelNotFound,
            r"model .*(not found|does not exist)|no models loaded|no endpoints found"
            r"|not a valid model|invalid model name",
        ),
        (
            ContentFiltered,
            r"content[_ ](filter|policy|management)|usage policy|safety system|flagged"
            r"|moderation",
        ),
        (ProviderOverloaded, r"overloaded|server busy|loading model"),
    )
)

_STATUS: Final[Mapping[int, ErrorClass]] = {
    **dict.fromkeys((400, 405, 406, 411, 415, 422), InvalidRequest),
    **dict.fromkeys((401, 403), ApiKeyInvalid),
    402: QuotaExceeded,
    **dict.fromkeys((408, 504, 524), ProviderTimeout),
    413: ContextLengthExceeded,
    429: RateLimitExceeded,
    **dict.fromkeys((502, 521, 522, 523, 530), ProviderOffline),
    **dict.fromkeys((503, 529), ProviderOverloaded),
}
_ABOUT_A_MODEL: Final = re.compile(r"model|no endpoints found", re.IGNORECASE)
_ABOUT_A_PLAN: Final = re.compile(r"subscri|upgrade|\bplan\b|usage limit", re.IGNORECASE)

# What happened and what to do, around the provider's own words.
_SENTENCES: Final[Mapping[ErrorClass, tuple[str, str]]] = {
    ProviderOffline: (
        "cannot be reached",
        "Check that it is running and that the base URL is right, then try again.",
    ),
    ApiKeyInvalid: ("refused the API key", "Enter a valid key in the configuration."),
    RateLimitExceeded: ("limits how often it may be asked", "Wait a moment, then try again."),
    ModelNotFound: (
        "does not have this model",
        "Choose another model in the configuration, or load it at the provider.",
    ),
    ProviderTimeout: ("took too long", "Try again, or ask for less."),
    ContextLengthExceeded: (
        "cannot take so long a conversation",
        "Send fewer earlier messages, shorten the prompt or lower max tokens.",
    ),
    QuotaExceeded: (
        "has no credit left for this key",
        "Add credit or raise the limit at the provider.",
    ),
    ContentFiltered: ("refused this content", "Change the prompt."),
    InvalidRequest: (
        "did not accept the request",
        "Check the base URL and the parameters of the configuration.",
    ),
    ProviderOverloaded: ("is overloaded", "Try again in a moment."),
    StreamInterrupted: ("ended the answer before it was complete", "Try again."),
    ProviderFailure: ("failed", "Try again; if it goes on, ask the provider."),
}


def response_failure(
    source: Source,
    status: int,
    headers: Mapping[str, str],
    content_type: str,
    body: bytes,
    *,
    now: datetime | None = None,
) -> ProviderError:
    """The error that a response which is no answer stands for.

    `status` may be 200: web pages and errors come under it too. `now` is the moment that dates
    in the headers are measured from (aware; the clock's if None).
    """
    fields = {name.lower(): value for name, value in headers.items()}
    if 300 <= status < 400:
        return InvalidRequest(_redirect_message(source, fields.get("location", "")))
    text = body.decode("utf-8", "replace")
    is_page = content_type.partition(";")[0].strip().lower() == "text/html"
    if is_page and status == 200:
        return InvalidRequest(
            f"{source.name} answered with a web page, not with an answer. Check the base URL."
        )
    report = _page_report(text) if is_page else _body_report(text)
    # A status of 200 says nothing about the error in it.
    known_status = report.status if status == 200 else status
    should_retry = {"true": True, "false": False}.get(fields.get("x-should-retry", "").strip())
    wait = _retry_after(fields, report.message, now or datetime.now(UTC))
    return _error(source, report, known_status, should_retry, wait, is_stream=status == 200)


def reported_failure(source: Source, error: Any) -> ProviderError:
    """The error that a frame of a stream reports. `error` is parsed JSON or text."""
    report = _body_report(error) if isinstance(error, str) else _value_report(error)
    wait = _retry_after({}, report.message, datetime.now(UTC))
    return _error(source, report, report.status, None, wait, is_stream=True)


_KEY_LIKE: Final = re.compile(
    r"""
    (?<=bearer[ ])[^\s"',;]{4,}
    | \b(?:sk|pk|rk|gsk|hf|xai|pplx|nvapi|r8|llmchat)[-_][\w*.…-]{4,}   # OpenAI and its like
    | \bAIza[\w*-]{8,}                                           # Google
    | (?<=api[-_]key[=:])[^\s"'&,;]{4,}
    | (?<=[?&]key=)[^\s"'&]{4,}
    """,
    re.IGNORECASE | re.VERBOSE,
)


def masked(text: str, secrets: Collection[str] = ()) -> str:
    """`text` without these secrets and without whatever looks like a key."""
    for secret in secrets:
        for form in {secret, quote(secret), quote(secret, safe="")}:
            if len(form) >= 4:
                text = text.replace(form, "[hidden]")
            elif form:
                # So short a key is part of ordinary words.
                text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "[hidden]", text)
    return _KEY_LIKE.sub("[hidden]", text)


def shortened(text: str, length: int = WORDS_LENGTH) -> str:
    """One line of `text`: no tags, no control characters, at most `length` characters."""
    text = re.sub(r"</?[a-zA-Z!][^<>]*>", " ", text)
    text = "".join(c if c.isprintable() else " " for c in valid_text(text))
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def message(source: Source, error_class: ErrorClass, words: str = "") -> str:
    """The sentence for people: who failed, in which words, and what to do."""
    what, advice = _SENTENCES[error_class]
    # Masked before it is cut, or half a key would stay.
    words = shortened(masked(words[:_READ_LENGTH], source.secrets))
    stop = "" if words.endswith((".", "!", "?", "…")) else "."
    said = f": “{words}”{stop}" if words else "."
    return f"{source.name} {what}{said} {advice}"


def _error(
    source: Source,
    report: _Report,
    status: int | None,
    should_retry: bool | None,
    retry_after: float | None,
    *,
    is_stream: bool,
) -> ProviderError:
    if status is None:
        status = next((_WORD_STATUS[code] for code in report.codes if code in _WORD_STATUS), None)
    error_class = _class(source.kind, report, status, is_stream=is_stream)
    retryable = error_class.retryable_by_default
    if error_class is ProviderFailure:
        retryable = status == 409 or (status is not None and 500 <= status < 600 and status != 501)
    elif error_class is QuotaExceeded:
        retryable = report.may_retry
    if should_retry is not None:
        retryable = should_retry
    error = error_class(message(source, error_class, report.message), retryable=retryable)
    if error.recoverable:
        error.retry_after = retry_after
    return error


def _class(kind: str, report: _Report, status: int | None, *, is_stream: bool) -> ErrorClass:
    if not _QUOTA_WORDS.isdisjoint(report.codes):
        return QuotaExceeded
    if report.is_moderation:
        return ContentFiltered
    for code in report.codes:
        if error_class := _KIND_WORDS.get((kind, code)) or _WORDS.get(code):
            return error_class
        if code.startswith("image_"):
            return InvalidRequest
    if is_stream or status in _PATTERN_STATUSES:
        for error_class, pattern in _PATTERNS:
            if pattern.search(report.message):
                return error_class
    if status == 404:
        return ModelNotFound if _ABOUT_A_MODEL.search(report.message) else InvalidRequest
    if status == 403 and kind == "ollama":
        # Ollama has no keys of its own: the host name is not allowed, or the cloud plan is out.
        return QuotaExceeded if _ABOUT_A_PLAN.search(report.message) else InvalidRequest
    return _STATUS.get(status, ProviderFailure) if status is not None else ProviderFailure


def _page_report(text: str) -> _Report:
    title = re.search(r"<title[^<>]*>([^<]*)", text[:65_536], re.IGNORECASE)
    return _Report(message=html.unescape(title[1] if title else shortened(text)))


def _body_report(text: str) -> _Report:
    try:
        value = parse_json(text)
    except ValueError:
        return _Report(message=text[:_READ_LENGTH])
    return _value_report(value)


def _value_report(value: Any) -> _Report:
    """What a parsed error says, in any of the shapes of custom.md and errors.md."""
    if isinstance(value, list) and value:
        value = value[0]  # Gemini wraps the object
    if not isinstance(value, dict):
        return _Report(message=value[:_READ_LENGTH] if isinstance(value, str) else "")
    error = value.get("error")
    details = error if isinstance(error, dict) else value
    metadata = details.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    report = _Report(
        message=_message(value, details, metadata),
        codes=tuple(_codes(details, metadata)),
        status=_status(details.get("status_code"), details.get("code"), details.get("status")),
        is_moderation=bool(metadata.get("reasons") or metadata.get("flagged_input")),
        may_retry=metadata.get("limit_source") == "openrouter_in_flight_budget",
    )
    return _inside(report)


def _inside(report: _Report) -> _Report:
    """The same, with what a message that is itself JSON says: gateways pass errors on as text."""
    if not report.message.lstrip().startswith("{"):
        return report
    try:
        inner = parse_json(report.message)
    except ValueError:
        return report
    error = inner.get("error")
    details = error if isinstance(error, dict) else inner
    return _Report(
        message=_message(inner, details, {}) or report.message,
        codes=(*report.codes, *_codes(details, {})),
        status=report.status or _status(details.get("status_code"), details.get("code")),
        is_moderation=report.is_moderation,
        may_retry=report.may_retry,
    )


def _message(value: Mapping[str, Any], details: Mapping[str, Any], metadata: Any) -> str:
    """The first text in the order of custom.md, shortened to what is looked at."""
    for found in (
        metadata.get("raw") if metadata else None,
        details.get("message"),
        value.get("error"),
        value.get("message"),
        _detail(value.get("detail")),
    ):
        if isinstance(found, str) and found.strip():
            return found[:_READ_LENGTH]
    return ""


def _detail(detail: Any) -> str:
    """FastAPI's detail: a text, or a list of {"loc", "msg"}."""
    if isinstance(detail, list):
        found = [item.get("msg") for item in detail[:10] if isinstance(item, dict)]
        return "; ".join(text for text in found if isinstance(text, str))
    return detail if isinstance(detail, str) else ""


def _codes(details: Mapping[str, Any], metadata: Mapping[str, Any]) -> Iterator[str]:
    more = details.get("details")
    inner = details.get("innererror")
    for code in (
        metadata.get("error_type"),
        more.get("error_code") if isinstance(more, dict) else None,
        details.get("code"),
        details.get("type"),
        inner.get("code") if isinstance(inner, dict) else None,
    ):
        if isinstance(code, str) and not code.isdecimal():
            yield code[:100].lower()


def _status(*values: Any) -> int | None:
    """The first that is an HTTP error status, as number or text."""
    for value in values:
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 300 <= value <= 599:
            return value
    return None


def _redirect_message(source: Source, location: str) -> str:
    try:
        parts = urlsplit(location)
        host = shortened(f"{parts.scheme}://{parts.hostname}") if parts.hostname else ""
    except ValueError:
        host = ""
    where = f"to {host}" if host else "to another address"
    return (
        f"{source.name} redirects {where}, which is not followed, so that the API key goes nowhere"
        " else. Enter the right base URL in the configuration."
    )


def _retry_after(headers: Mapping[str, str], words: str, now: datetime) -> float | None:
    """Seconds to wait by the order of errors.md, 0 to RETRY_AFTER_MAX; None where none is told."""
    found = [
        seconds
        for seconds in (
            _seconds(headers.get("retry-after-ms", ""), per_second=1000),
            _seconds(headers.get("retry-after", "")),
            _until(headers.get("retry-after", ""), now),
            _reset_after(headers, now),
            _told(words),
        )
        if seconds is not None
    ]
    # 0 counts only where nothing says more: Azure sends 0 ms beside a whole second.
    return next((seconds for seconds in found if seconds > 0), found[0] if found else None)


def _seconds(text: str, per_second: int = 1) -> float | None:
    try:
        value = float(text) / per_second
    except ValueError:
        return None
    return min(max(value, 0.0), RETRY_AFTER_MAX) if math.isfinite(value) else None


def _until(text: str, now: datetime) -> float | None:
    """Seconds until an HTTP date or an RFC 3339 time; None for what is over or is no date."""
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - now).total_seconds()
    return min(seconds, RETRY_AFTER_MAX) if seconds > 0 else None


def _reset_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The smallest reset among the limits that are used up."""
    resets = []
    for header, remaining in headers.items():
        if "ratelimit" in header and "-remaining" in header and remaining.strip() == "0":
            text = headers.get(header.replace("-remaining", "-reset"), "")
            seconds = _duration(text)
            resets.append(seconds if seconds is not None else _until(text, now))
    return min((seconds for seconds in resets if seconds is not None), default=None)


_DURATION_UNITS: Final[Mapping[str, float]] = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
_NUMBER: Final = r"\d{1,9}(?:\.\d{1,9})?"


def _duration(text: str) -> float | None:
    """Seconds of a text such as `12ms`, `1.4s` or `6m0s`."""
    text = text.strip()
    if not re.fullmatch(rf"(?:{_NUMBER}(?:ms|h|m|s))+", text):
        return None
    parts = re.findall(rf"({_NUMBER})(ms|h|m|s)", text)
    return min(sum(float(n) * _DURATION_UNITS[unit] for n, unit in parts), RETRY_AFTER_MAX)


def _told(words: str) -> float | None:
    told = re.search(rf"try again in ((?:{_NUMBER}(?:ms|h|m|s))+)", words, re.IGNORECASE)
    return _duration(told[1].lower()) if told else None
