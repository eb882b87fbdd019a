"""What can go wrong with a provider, one class per wire code (contract S8).

    ProviderError
    ├── ProviderOffline          PROVIDER_OFFLINE
    ├── ApiKeyInvalid            API_KEY_INVALID
    ├── RateLimitExceeded        RATE_LIMIT_EXCEEDED
    ├── ModelNotFound            MODEL_NOT_FOUND
    ├── ProviderTimeout          TIMEOUT
    ├── ContextLengthExceeded    CONTEXT_LENGTH_EXCEEDED
    ├── QuotaExceeded            QUOTA_EXCEEDED
    ├── ContentFiltered          CONTENT_FILTERED
    ├── InvalidRequest           INVALID_REQUEST
    ├── ProviderOverloaded       PROVIDER_OVERLOADED
    ├── StreamInterrupted        STREAM_INTERRUPTED
    └── ProviderFailure          PROVIDER_ERROR, all the rest

`retryable` says whether asking again before the first chunk may help; `recoverable` whether a
person is offered a Retry button. `failure.py` finds the class for a response.
"""

from typing import ClassVar


class ProviderError(Exception):
    """A provider did not answer as asked.

    `message` is for people: it names the provider and says what to do, and holds no secret.
    `retry_after` is in seconds, None where the provider named no time.
    """

    code: ClassVar[str]
    retryable_by_default: ClassVar[bool] = False
    recoverable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after = retry_after

    @property
    def recoverable(self) -> bool:
        """Whether trying again, now or later, may succeed without changing anything."""
        return self.recoverable_by_default or self.retryable


class ProviderOffline(ProviderError):
    code = "PROVIDER_OFFLINE"
    retryable_by_default = recoverable_by_default = True


class ApiKeyInvalid(ProviderError):
    code = "API_KEY_INVALID"


class RateLimitExceeded(ProviderError):
    code = "RATE_LIMIT_EXCEEDED"
    retryable_by_default = recoverable_by_default = True


class ModelNotFound(ProviderError):
    code = "MODEL_NOT_FOUND"


class ProviderTimeout(ProviderError):
    """Not repeated by itself: the provider may still be at work on an answer that is paid for."""

    code = "TIMEOUT"
    recoverable_by_default = True


class ContextLengthExceeded(ProviderError):
    code = "CONTEXT_LENGTH_EXCEEDED"


class QuotaExceeded(ProviderError):
    code = "QUOTA_EXCEEDED"


class ContentFiltered(ProviderError):
    code = "CONTENT_FILTERED"


class InvalidRequest(ProviderError):
    code = "INVALID_REQUEST"


class ProviderOverloaded(ProviderError):
    code = "PROVIDER_OVERLOADED"
    retryable_by_default = recoverable_by_default = True


class StreamInterrupted(ProviderError):
    code = "STREAM_INTERRUPTED"
    retryable_by_default = recoverable_by_default = True


class ProviderFailure(ProviderError):
    code = "PROVIDER_ERROR"
