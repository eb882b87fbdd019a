"""What was said and what it cost, to look at: nothing here is written or changed by hand.

Sessions may be deleted by those with the permission for it, and their messages and runs go with
them. Runs and usage logs are records: they have no deletion of their own.
"""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import get_script_prefix, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from conversations.budget_admin import BudgetAdmin
from conversations.models import AuditEvent, Budget, ChatSession, Message, Run, UsageLog

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class Records(ModelAdmin):
    """Rows to browse: no adding and no changing, whatever the permissions say."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Parts(Records):
    """Rows that go with the session or user they belong to, and never alone."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        match = request.resolver_match
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        is_own_page = match is not None and (match.url_name or "").startswith(own_pages)
        return not is_own_page and super().has_delete_permission(request, obj)


def link_to_list(model: str, text: str, **filters: Any) -> SafeString:
    """A link to the rows of `model` that belong to one row of another."""
    (field, value), *_ = filters.items()
    address = reverse(f"admin:conversations_{model}_changelist")
    return format_html('<a href="{}?{}__exact={}">{}</a>', address, field, value, text)


@admin.register(ChatSession)
class ChatSessionAdmin(Records):
    list_display = ("__str__", "user", "configuration", "created_at", "last_activity_at")
    list_filter = ("last_activity_at", "configuration")
    list_select_related = ("user", "configuration")
    search_fields = ("title", "user__username")
    ordering = ("-last_activity_at",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return ["id", *super().get_fields(request, obj), "created_at", "last_activity_at", "rows"]

    @admin.display(description="what belongs to it")
    def rows(self, chat: ChatSession) -> SafeString:
        return format_html(
            "{}, {}, {}",
            link_to_list("message", "messages", session=chat.pk),
            link_to_list("run", "runs", session=chat.pk),
            link_to_list("usagelog", "usage logs", session=chat.pk),
        )

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """What goes with the sessions, counted: it may be thousands of rows.

        A session whose answer is still being written is protected: its end would have no place.
        """
        sessions = [chat.pk for chat in objs]
        runs = Run.objects.filter(session__in=sessions)
        counts = {
            "sessions": len(sessions),
            "messages": Message.objects.filter(session__in=sessions).count(),
            "runs": runs.count(),
        }
        busy = {run.session_id for run in runs.running()}
        protected = [
            f"{chat}: an answer is being written; stop it first" for chat in objs if chat.pk in busy
        ]
        return [f"Session: {chat}" for chat in objs], counts, set(), protected


@admin.register(Message)
class MessageAdmin(Parts):
    list_display = ("__str__", "session", "role", "status", "tokens", "created_at")
    list_filter = ("role", "status", "created_at")
    list_select_related = ("session",)
    search_fields = ("content", "session__title", "session__user__username")
    ordering = ("-pk",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [*super().get_fields(request, obj), "created_at", "rows"]

    @admin.display(description="what belongs to it")
    def rows(self, message: Message) -> SafeString:
        if message.role == Message.Role.ASSISTANT:
            return link_to_list("run", "its run", assistant_message=message.pk)
        return link_to_list("run", "its runs", user_message=message.pk)


@admin.register(Run)
class RunAdmin(Parts):
    list_display = (
        "id",
        "user",
        "session",
        "configuration",
        "status",
        "error_code",
        "mismatches",
        "started_at",
    )
    list_filter = ("status", "error_code", "started_at")
    list_select_related = ("user", "session", "configuration")
    search_fields = ("=id", "user__username", "session__title", "error_code")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return ["id", "inspector", *super().get_fields(request, obj), "started_at", "rows"]

    @admin.display(description="inspector")
    def inspector(self, run: Run) -> SafeString:
        # By the contract's address (SPEC 8): the monitor stands above this app, unknown to it.
        return format_html(
            '<a href="{}monitor/runs/{}/">What was sent and what came back</a>',
            get_script_prefix(),
            run.pk,
        )

    @admin.display(description="what belongs to it")
    def rows(self, run: Run) -> SafeString:
        return link_to_list("usagelog", "usage log", run=run.pk)


@admin.register(UsageLog)
class UsageLogAdmin(Records):
    list_display = (
        "started_at",
        "username",
        "configuration",
        "model",
        "status",
        "code",
        "prompt_tokens",
        "completion_tokens",
        "cost_usd",
        "cost_source",
        "processing_time",
    )
    list_filter = ("status", "provider", "cost_source", "started_at")
    search_fields = ("username", "configuration", "model", "code")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Finds the id of a run or session too, also of one that is gone."""
        try:
            wanted = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(Q(run_id=wanted) | Q(session_id=wanted)), False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        # The ids as well: what they name may be gone.
        return ["run_id", "session_id", *super().get_fields(request, obj)]


@admin.register(AuditEvent)
class AuditEventAdmin(Records):
    """What nobody can change or delete here, not even who may do everything else."""

    list_display = ("moment", "action", "actor_name", "subject", "address", "shown_details")
    list_filter = ("action", "at")
    search_fields = ("action", "actor_name", "subject", "address")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return ["at", *super().get_fields(request, obj)]

    @admin.display(description="time", ordering="at")
    def moment(self, event: AuditEvent) -> str:
        return f"{timezone.localtime(event.at):%Y-%m-%d %H:%M:%S}"

    @admin.display(description="details")
    def shown_details(self, event: AuditEvent) -> str:
        return "; ".join(f"{name}: {_told(value)}" for name, value in event.details.items())


def _told(value: Any) -> str:
    match value:
        case {"was": was, "is": now}:
            return f"{was} → {now}"
        case list():
            return ", ".join(map(str, value))
    return str(value)


admin.site.register(Budget, BudgetAdmin)
