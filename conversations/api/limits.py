"""How many calls a person may make in a minute, over all processes.

What is counted are the runs that are stored anyway: a window of the last 60 seconds that slides,
and nothing that would have to be kept for it. Calls that start no run cost next to nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Count, Min
from django.utils import timezone

from conversations.api.errors import Problem, Refused
from conversations.models import Origin, Run

WINDOW: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be called for, after the call it is told with. `reset` is in seconds: then the
    oldest call no longer counts."""

    limit: int
    remaining: int
    reset: int

    @property
    def headers(self) -> dict[str, str]:
        """As OpenAI tells it."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset}s",
        }


def take(user: Any) -> Allowance:
    """Lets one more call of this person pass. Called in the transaction that starts its run.
    Raises Refused."""
    limit: int = settings.API_REQUESTS_PER_MINUTE
    # One call of a person at a time is counted: others wait here until its run is stored.
    people = get_user_model().objects.filter(pk=user.pk)
    list(people.select_for_update(no_key=True).values_list("pk"))
    now = timezone.now()
    recent = Run.objects.filter(user=user, origin=Origin.API, started_at__gt=now - WINDOW)
    made = recent.aggregate(count=Count("pk"), oldest=Min("started_at"))
    reset = ceil(((made["oldest"] or now) + WINDOW - now).total_seconds())
    if made["count"] >= limit:
        raise Refused(
            Problem(
                429,
                "rate_limit_exceeded",
                f"You may make {limit} calls a minute. Wait {reset} seconds, then go on.",
                retry_after=reset,
                headers=Allowance(limit, 0, reset).headers,
            )
        )
    return Allowance(limit, limit - made["count"] - 1, reset)
