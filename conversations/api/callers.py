"""Who calls: the person whose bearer token it is, or a person at the app's own page.

Synchronous; these read the database.
"""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest

from conversations import tokens
from conversations.api.errors import Problem, Refused
from conversations.models import ApiToken, Origin, Run
from conversations.models.runs import RunQuerySet
from conversations.planning import Source
from conversations.views import streams
from providers.models import Configuration, ConfigurationQuerySet


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, and the token or the session of the browser by which they are known."""

    user: Any
    token: ApiToken | None = None

    @property
    def configurations(self) -> ConfigurationQuerySet:
        """Those that may be used."""
        if self.token is not None:
            return self.token.usable_configurations
        return Configuration.objects.usable_by(self.user)

    @property
    def source(self) -> Source:
        return Source(Origin.API, api_token=self.token.pk if self.token else None)


def with_token(request: HttpRequest) -> Caller:
    """The caller by the bearer token of the request; a login cookie is nobody here. Raises
    Refused."""
    return _owner(tokens.bearer(request.headers.get("Authorization", "")))


def with_key(request: HttpRequest) -> Caller:
    """The same where the token may come as `x-api-key` too, as Anthropic's clients send theirs."""
    bearer = tokens.bearer(request.headers.get("Authorization", ""))
    return _owner(bearer or request.headers.get("x-api-key", "").strip())


def _owner(secret: str | None) -> Caller:
    if not secret:
        raise _unknown(
            "This needs a token, in the header “Authorization: Bearer TOKEN”. Make one in the "
            "menu of your account, under API tokens."
        )
    token = tokens.find(secret)
    if token is None:
        raise _unknown("This token is unknown, expired or revoked. Make another one.")
    return Caller(token.user, token)


def has_token(request: HttpRequest) -> bool:
    """Whether the request brings a bearer token, a good one or not."""
    return tokens.bearer(request.headers.get("Authorization", "")) is not None


def runs_of(caller: Caller) -> RunQuerySet:
    """The runs that a caller may follow: a token opens what it has made, and nothing else of its
    person's."""
    mine = Run.objects.visible_to(caller.user)
    return mine if caller.token is None else mine.filter(api_token=caller.token)


def is_welcome(request: HttpRequest, caller: Caller) -> bool:
    """Whether the caller still is who they were: the token is good, or the browser signed in."""
    if caller.token is not None:
        return tokens.is_usable(caller.token)
    return streams.is_signed_in(request)


def _unknown(message: str) -> Refused:
    return Refused(Problem(401, "invalid_api_key", message, is_final=True))
