"""What the forms of the monitor offer to choose from."""

from typing import Any

from django.contrib.auth import get_user_model

from providers.models import Configuration

MOST_NAMES = 500  # more are typed


def configurations_for(user: Any, chosen: str | None) -> list[str]:
    """The slugs of all configurations for staff, of those they may use for others; and the one
    that was chosen, which may be gone."""
    known = Configuration.objects.all() if user.is_staff else Configuration.objects.usable_by(user)
    slugs = set(known.values_list("slug", flat=True)[:MOST_NAMES])
    return sorted(slugs | ({chosen} if chosen else set()))


def people_for(user: Any) -> list[str]:
    """The names that staff may choose from; others see only their own runs."""
    if not user.is_staff:
        return []
    people = get_user_model().objects.order_by("username")
    return list(people.values_list("username", flat=True)[:MOST_NAMES])
