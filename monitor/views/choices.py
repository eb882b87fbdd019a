"""What the forms of the monitor offer to choose from."""

from typing import Any

from django.contrib.auth import get_user_model

from conversations.models import UsageLog
from providers.models import Configuration

MOST_NAMES = 500  # more are typed
LOOKED_AT = 1_000  # rows of a person's own


def configurations_for(user: Any, chosen: str | None) -> list[str]:
    """The slugs of all configurations for staff; for others of those that they may use, or have
    used lately; and the one that was chosen, which may be gone."""
    known = Configuration.objects.all() if user.is_staff else Configuration.objects.usable_by(user)
    slugs = set(known.values_list("slug", flat=True)[:MOST_NAMES])
    if not user.is_staff:
        own = UsageLog.objects.visible_to(user).order_by("-started_at")
        slugs |= set(own.values_list("configuration", flat=True)[:LOOKED_AT])
    return sorted(slugs | ({chosen} if chosen else set()))


def people_for(user: Any) -> list[str]:
    """The names that staff may choose from; others see only their own runs."""
    if not user.is_staff:
        return []
    people = get_user_model().objects.order_by("username")
    return list(people.values_list("username", flat=True)[:MOST_NAMES])
