"""How a run can fail, in the words of the contract (S8): the providers' errors and our own.

Failure                  what a reader is told: code, message, recoverable, retry_after
RunError                 the server's own reasons
├── BudgetExceeded       BUDGET_EXCEEDED, which is a Refusal as well: nothing was started
├── Interrupted          INTERRUPTED, the server went away
└── InternalError        INTERNAL_ERROR, a defect or broken storage
Refusal                  why nothing was started
├── RunInProgress        the session already has a run
├── KeyReused            the idempotency key stands for another request
├── AnswerComplete       there is nothing to continue
├── Gone                 what it is about was deleted at the same time
├── TooManyRuns          the person's limit is reached
├── OutOfReach           the process that drives a run does not answer
└── ShuttingDown         this process takes no new runs
BadValue                 nothing was started: a field has a value that cannot be used after all
"""

from dataclasses import dataclass
from typing import ClassVar

from providers.errors import ProviderError


class RunError(Exception):
    """The server's own reason to end a run. The text is for people."""

    code: ClassVar[str]
    recoverable: ClassVar[bool] = True
    retry_after: int | None = None  # s


class Interrupted(RunError):
    code = "INTERRUPTED"

    def __init__(self) -> None:
        super().__init__(
            "The server was stopped while this answer was written. What it had so far is kept: "
            "continue it, or try again."
        )


class InternalError(RunError):
    code = "INTERNAL_ERROR"

    def __init__(self) -> None:
        super().__init__(
            "Something went wrong inside llmchat; the details are in the server's log. Try again."
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a run that failed, as readers are told. `retry_after` is in seconds or None."""

    code: str
    message: str
    recoverable: bool
    retry_after: float | None = None

    @classmethod
    def of(cls, error: ProviderError | RunError) -> "Failure":
        if isinstance(error, ProviderError):
            return cls(error.code, error.message, error.recoverable, error.retry_after)
        return cls(error.code, str(error), error.recoverable, error.retry_after)


class Refusal(Exception):
    """Nothing was started and nothing was stored. `status` is the HTTP status that says so."""

    status: ClassVar[int]
    code: ClassVar[str]
    message: str
    retry_after: int | None = None  # s

    def __str__(self) -> str:
        return self.message


class BadValue(Exception):
    """What a form cannot see: a field's value turned out wrong when it was used. Nothing was
    stored. `message` is for people."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class BudgetExceeded(RunError, Refusal):
    """A budget has no room for a run. `message` says which, how much is left and when it resets;
    `retry_after` are the seconds until then, None where waiting would not help."""

    status = 429
    code = "BUDGET_EXCEEDED"
    recoverable = False

    def __init__(self, message: str, retry_after: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class RunInProgress(Refusal):
    status = 409
    code = "RUN_IN_PROGRESS"
    message = "This chat is still writing an answer. Wait for its end, or stop it first."


class KeyReused(Refusal):
    status = 409
    code = "IDEMPOTENCY_KEY_REUSED"
    message = "This idempotency key was used for another request. Send a new one."


class AnswerComplete(Refusal):
    status = 409
    code = "ANSWER_COMPLETE"
    message = "This answer was not cut off, so there is nothing to continue. Ask again instead."


class Gone(Refusal):
    status = 404
    code = "NOT_FOUND"
    message = "This was deleted in the meantime."


class TooManyRuns(Refusal):
    status = 429
    code = "TOO_MANY_RUNS"
    message = "Too many of your answers are being written. Wait until one has ended."
    retry_after = 5


class OutOfReach(Refusal):
    status = 503
    code = "RUN_OUT_OF_REACH"
    message = "The process that writes this answer does not respond. Try again in a moment."
    retry_after = 5


class ShuttingDown(Refusal):
    status = 503
    code = "SHUTTING_DOWN"
    message = "The server is restarting. Send it again in a few seconds."
    retry_after = 5
