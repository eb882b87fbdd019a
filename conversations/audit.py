"""The audit log: who did what that matters for security, when and from where, without any secret.

Most of it is written by signals of what is stored, so that it does not matter which page, command
or program did it. An act that is rolled back leaves no event either.
"""

import logging
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, Group
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import DatabaseError, models, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpRequest
from django.utils import timezone

from conversations import log_context
from conversations.models import ApiToken, AuditEvent, Budget
from providers import known_secrets, revisions
from providers.failure import masked
from providers.models import Configuration, ConfigurationRevision

log = logging.getLogger(__name__)

SUBJECT_CHARACTERS: Final = 200
NAME_CHARACTERS: Final = 150
MOST_NAMES: Final = 50  # of groups, permissions or people in one event

UNKNOWN_NAME: Final = "(unknown name)"
# Whoever goes on trying fills the log no further.
MOST_FAILURES, FAILURES_WITHIN = 50, timedelta(minutes=15)  # of one address

ROLE_FIELDS: Final = ("username", "is_active", "is_staff", "is_superuser")
BUDGET_FIELDS: Final = ("period", "limit_usd", "limit_tokens", "is_active")


def record(
    action: str,
    actor: AbstractBaseUser | None = None,
    subject: object = "",
    address: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Writes one event.

    `action` is a word such as "token_made", `subject` what or whom it concerned. Where a request is
    being answered, its person and address stand in for those that are not given. `details` is JSON
    and must not hold a secret; what looks like one is masked all the same.
    """
    current = log_context.asking()
    if current is not None:
        actor = actor or current.known_user
        address = address or current.address
    AuditEvent.objects.create(
        # Who deletes their own account acts, but can be referred to no more.
        actor_id=actor.pk if actor and _exists(actor) else None,
        actor_name=actor.get_username()[:NAME_CHARACTERS] if actor else "",
        action=action,
        subject=_safe(str(subject))[:SUBJECT_CHARACTERS],
        address=_valid(address),
        details=_safe(details or {}),
    )


def _valid(address: str | None) -> str | None:
    """None for what is no address: a badly configured proxy passes on what anybody wrote."""
    try:
        # Without the zone of IPv6, which may be any text.
        return str(ip_address((address or "").partition("%")[0]))
    except ValueError:
        return None


def _exists(actor: AbstractBaseUser) -> bool:
    return get_user_model().objects.filter(pk=actor.pk).exists()


def _safe(value: Any) -> Any:
    match value:
        case str():
            # NUL is text that PostgreSQL cannot hold.
            return masked(value, known_secrets.known()).replace("\0", "\ufffd")
        case dict():
            return {name: _safe(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_safe(inner) for inner in value]
        case None | bool() | int() | float():
            return value
    return _safe(str(value))


# ---- Logins


def _of_request(request: HttpRequest | None) -> str | None:
    current = log_context.asking()
    if current is not None and current.address:
        return current.address
    return request.META.get("REMOTE_ADDR") or None if request is not None else None


def _logged_in(request: HttpRequest, user: AbstractBaseUser, **_: Any) -> None:
    record("login", user, user.get_username(), _of_request(request))


def _logged_out(request: HttpRequest, user: AbstractBaseUser | None, **_: Any) -> None:
    if user is not None:
        record("logout", user, user.get_username(), _of_request(request))


def _login_failed(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    # What was typed as a name may be a password in the wrong box: only a name that is one is kept.
    typed = str(credentials.get(get_user_model().USERNAME_FIELD, ""))
    users: Any = get_user_model().objects
    address = _of_request(request)
    try:
        with transaction.atomic():
            is_known = "\0" not in typed and users.filter(username=typed).exists()
            name = typed if is_known else UNKNOWN_NAME
            lately = AuditEvent.objects.filter(at__gt=timezone.now() - FAILURES_WITHIN)
            of_address = lately.filter(action="login_failed", address=_valid(address))
            if of_address.count() < MOST_FAILURES:
                record("login_failed", None, name, address)
    except DatabaseError:
        # Whoever is at the door gets the same answer as ever.
        log.exception("a failed login could not be recorded")


# ---- People and roles


def _look_at_user(instance: Any, update_fields: Any = None, raw: bool = False, **_: Any) -> None:
    """Keeps what the row was. A login alone saves `last_login`, and needs no look."""
    watched = {*ROLE_FIELDS, "password"}
    instance._audited_before = None
    if raw or instance._state.adding or (update_fields and watched.isdisjoint(update_fields)):
        return
    fields = (*ROLE_FIELDS, "password")
    instance._audited_before = type(instance).objects.filter(pk=instance.pk).values(*fields).first()


def _user_saved(
    instance: Any, created: bool, update_fields: Any = None, raw: bool = False, **_: Any
) -> None:
    if created and not raw:
        roles = [name for name in ("is_staff", "is_superuser") if getattr(instance, name)]
        record("user_created", None, instance.get_username(), details={"roles": roles})
    before = getattr(instance, "_audited_before", None)
    if before is None:
        return
    instance._audited_before = None
    # A login may store the same password with a newer hash, which is no change.
    is_rehash = set(update_fields or ()) == {"password"} and instance._password is None
    if before.pop("password") != instance.password and not is_rehash:
        record("password_changed", None, instance.get_username())
    changed = _changed(before, instance, update_fields)
    if changed:
        record("role_changed", None, before["username"], details=changed)


def _changed(before: dict[str, Any], row: Any, update_fields: Any = None) -> dict[str, Any]:
    """Fields that differ, each with what it was and is."""
    return {
        name: {"was": _plain(value), "is": _plain(getattr(row, name))}
        for name, value in before.items()
        if (not update_fields or name in update_fields) and getattr(row, name) != value
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int) else str(value)


def _user_deleted(instance: Any, **_: Any) -> None:
    record("user_deleted", None, instance.get_username())


def _group_deleted(instance: Group, **_: Any) -> None:
    record("group_deleted", None, instance.name)


class _Memberships:
    """Receives changes of one many-to-many relation that gives rights."""

    def __init__(self, name: str, through: Any) -> None:
        self.name = name
        m2m_changed.connect(self, sender=through, dispatch_uid=f"audit {name}")

    def __call__(
        self,
        instance: Any,
        action: str,
        model: type[models.Model],
        pk_set: set[Any] | None,
        **_: Any,
    ) -> None:
        verb = {"post_add": "added", "post_remove": "removed", "pre_clear": "removed"}.get(action)
        if verb is None:
            return
        names = ["all"]
        if pk_set is not None:
            names = [str(row) for row in model._default_manager.filter(pk__in=pk_set)[:MOST_NAMES]]
        if names:
            record("role_changed", None, instance, details={"of": self.name, verb: names})


# ---- Configurations, tokens, budgets


def _configuration_revised(instance: ConfigurationRevision, created: bool, **_: Any) -> None:
    if not created or instance.configuration is None:
        return
    older = instance.configuration.revisions.filter(number__lt=instance.number)
    former = older.order_by("-number").first()
    actor, slug = instance.changed_by, instance.slug
    details: dict[str, Any] = {"revision": instance.number}
    if former:
        details["changed"] = [change.name for change in revisions.changes(instance, former)]
    record(
        "configuration_changed" if former else "configuration_created",
        actor,
        slug,
        details=details,
    )
    now, before = instance.fields, former.fields if former else {}
    had_key, has_key = before.get("api_key") == "set", now.get("api_key") == "set"
    if has_key and (not had_key or "api_key" in now.get(revisions.REPLACED, ())):
        record("key_set", actor, slug)
    elif had_key and not has_key:
        record("key_removed", actor, slug)
    if former and now.get("base_url") != before.get("base_url"):
        moved = {"was": before.get("base_url"), "is": now.get("base_url")}
        record("url_changed", actor, slug, details={"base URL": moved})


def _configuration_deleted(instance: Configuration, **_: Any) -> None:
    record("configuration_deleted", None, instance.slug)


def _token_saved(instance: ApiToken, created: bool, **_: Any) -> None:
    if created:
        record("token_made", None, instance.user, details=_token(instance))


def _token_deleted(instance: ApiToken, **_: Any) -> None:
    record("token_deleted", None, f"token {instance.prefix}…", details=_token(instance))


def token_revoked(token: ApiToken) -> None:
    """To be called by whoever revokes one: it is an update, of which no signal tells."""
    record("token_revoked", None, token.user, details=_token(token))


def _token(token: ApiToken) -> dict[str, Any]:
    """Which one it is. Its beginning is shown to its owner too, and opens nothing."""
    return {"token": token.pk, "name": token.name}


def _look_at_budget(instance: Budget, raw: bool = False, **_: Any) -> None:
    rows = Budget.objects.filter(pk=instance.pk).values(*BUDGET_FIELDS)
    before = None if raw or instance._state.adding else rows.first()
    instance._audited_before = before  # type: ignore[attr-defined]  # a note to the receiver below


def _budget_saved(
    instance: Budget, created: bool, update_fields: Any = None, raw: bool = False, **_: Any
) -> None:
    before = getattr(instance, "_audited_before", None)
    if created and not raw:
        limits = {name: _plain(getattr(instance, name)) for name in BUDGET_FIELDS}
        record("budget_created", None, _budget_of(instance), details=limits)
    elif before and (changed := _changed(before, instance, update_fields)):
        record("budget_changed", None, _budget_of(instance), details=changed)


def _budget_deleted(instance: Budget, **_: Any) -> None:
    record("budget_deleted", None, _budget_of(instance))


def _budget_of(budget: Budget) -> str:
    """Whom it limits, by ids where the names are gone with it."""
    for name in ("user", "group", "token"):
        if getattr(budget, f"{name}_id") is not None:
            return f"{name} {getattr(budget, f'{name}_id')}"
    return str(budget)


def connect() -> None:
    """Begins to record."""
    user: Any = get_user_model()
    user_logged_in.connect(_logged_in, dispatch_uid="audit")
    user_logged_out.connect(_logged_out, dispatch_uid="audit")
    user_login_failed.connect(_login_failed, dispatch_uid="audit")
    for signal, receiver, sender in (
        (pre_save, _look_at_user, user),
        (post_save, _user_saved, user),
        (post_delete, _user_deleted, user),
        (post_delete, _group_deleted, Group),
        (post_save, _configuration_revised, ConfigurationRevision),
        (post_delete, _configuration_deleted, Configuration),
        (post_save, _token_saved, ApiToken),
        (post_delete, _token_deleted, ApiToken),
        (pre_save, _look_at_budget, Budget),
        (post_save, _budget_saved, Budget),
        (post_delete, _budget_deleted, Budget),
    ):
        signal.connect(receiver, sender=sender, dispatch_uid=f"audit {receiver.__name__}")
    for name, through in (
        ("groups", user.groups.through),
        ("user_permissions", user.user_permissions.through),
        ("permissions", Group.permissions.through),
    ):
        _memberships.append(_Memberships(name, through))


_memberships: list[_Memberships] = []  # signals hold their receivers weakly
