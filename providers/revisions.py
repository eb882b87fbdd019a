"""What a configuration was at each time, and who made it so. No secret is kept.

`record` is called wherever a configuration is saved on purpose, in the same transaction: so what a
run reads, the values and the number of their revision, belongs together.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from django.contrib.auth.models import AbstractBaseUser
from django.db import models, transaction

from providers import known_secrets
from providers.failure import masked
from providers.models import Configuration, ConfigurationRevision

HIDDEN: Final = "[hidden]"
# Fields of which only that they changed is told.
SECRET_FIELDS: Final = ("api_key", "extra_headers")
# They say nothing of what the configuration does.
LEFT_OUT: Final = ("id", "created_at", "updated_at", "revision", *SECRET_FIELDS)
MOST_SHOWN: Final = 200  # revisions on a page
REPLACED: Final = "replaced"  # the key of `fields` with those of the secret ones that are new


def record(
    configuration: Configuration,
    user: AbstractBaseUser | None = None,
    replaced: Collection[str] = (),
) -> ConfigurationRevision | None:
    """Stores what a configuration is now, if that is something else than at its last revision.

    `user` is who did it, None for a command. `replaced` names those of SECRET_FIELDS that have got
    a new value, which nobody can see in what is kept.
    """
    with transaction.atomic():
        # Locked and read again: the number is the row's own, and the values are those stored.
        row = Configuration.objects.select_for_update(of=("self",)).get(pk=configuration.pk)
        # Not by the row's own number: who saved a whole row may have brought an older one back.
        last = row.revisions.order_by("-number").first()
        fields = snapshot(row)
        new = sorted(name for name in SECRET_FIELDS if name in replaced and getattr(row, name))
        if last is not None and not new and fields == {**last.fields, REPLACED: []}:
            _number(configuration, last)
            return None
        revision = ConfigurationRevision.objects.create(
            configuration=row,
            slug=row.slug,
            number=last.number + 1 if last else 1,
            changed_by_id=user.pk if user else None,
            changed_by_name=user.get_username() if user else "",
            fields={**fields, REPLACED: new if last is not None else []},
        )
        _number(configuration, revision)
    return revision


def _number(configuration: Configuration, revision: ConfigurationRevision) -> None:
    configuration.revision = revision.number
    # Not `save`: when it was changed is the business of who changed it.
    rows = Configuration.objects.filter(pk=configuration.pk)
    rows.exclude(revision=revision.number).update(revision=revision.number)


def snapshot(configuration: Configuration) -> dict[str, Any]:
    """The stored values by field, as JSON. Of the key only whether there is one, of extra headers
    the names; whatever looks like a key elsewhere is masked."""
    fields: dict[str, Any] = {
        field.name: _plain(getattr(configuration, field.name))
        for field in configuration._meta.concrete_fields
        if field.name not in LEFT_OUT
    }
    groups = configuration.allowed_groups.order_by("name").values_list("name", flat=True)
    fields["allowed_groups"] = list(groups)
    fields["extra_headers"] = dict.fromkeys(configuration.extra_headers, HIDDEN)
    fields["api_key"] = "set" if configuration.api_key else "none"
    fields[REPLACED] = []
    found: dict[str, Any] = _without_secrets(fields)
    return found


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return format(value.normalize(), "f")
        case models.Model():
            row: Any = value
            return row.slug
    return value


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return masked(value, known_secrets.known())
        case list():
            return [_without_secrets(inner) for inner in value]
        case dict():
            return {name: _without_secrets(inner) for name, inner in value.items()}
    return value


# ---- Reading them


@dataclass(frozen=True, slots=True)
class Change:
    """One field of a configuration before and after a revision, as text for people."""

    name: str  # as the admin's form has it
    before: str
    after: str


def changes(revision: ConfigurationRevision, former: ConfigurationRevision | None) -> list[Change]:
    """What a revision changed; for the first one, all that was set."""
    now = revision.fields
    before = former.fields if former else {}
    fields = [*Configuration._meta.fields, *Configuration._meta.many_to_many]
    found = [
        Change(_label(name), _shown(before.get(name)), _shown(now.get(name)))
        # In the order of the model. Of a field that there is no more, nothing can be said.
        for name in (field.name for field in fields)
        if before.get(name) != now.get(name) and (former or _shown(now.get(name)))
    ]
    replaced = [Change(_label(name), "", "replaced") for name in now.get(REPLACED, ())]
    return found + replaced


def history(
    configuration: Configuration, most: int = MOST_SHOWN
) -> list[tuple[ConfigurationRevision, list[Change]]]:
    """The latest revisions of a configuration with what each changed, the last one first."""
    found: list[ConfigurationRevision] = list(
        configuration.revisions.order_by("-number")[: most + 1]
    )
    formers = [*found[1:], None]
    return [
        (revision, changes(revision, former))
        for revision, former in zip(found, formers, strict=True)
    ][:most]


def _label(name: str) -> str:
    field: Any = Configuration._meta.get_field(name)
    verbose = str(field.verbose_name)
    return verbose[:1].upper() + verbose[1:]


def _shown(value: Any) -> str:
    if value in (None, [], {}):
        return ""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case list() if all(isinstance(inner, str) for inner in value):
            return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, indent=2)
