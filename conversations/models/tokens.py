"""The tokens by which programs use the API for a person."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.models.chats import Viewer, viewer_id
from providers.models import Configuration, ConfigurationQuerySet


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def visible_to(self, user: Viewer) -> "ApiTokenQuerySet":
        return self.filter(user_id=viewer_id(user))

    def usable(self) -> "ApiTokenQuerySet":
        """Those that open something now: not revoked, not expired, of a person who may sign in."""
        unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        return self.filter(unexpired, revoked_at=None, user__is_active=True)


class ApiToken(models.Model):
    """A secret that stands for its user. Only its hash is stored; it is shown once."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)  # its beginning, to tell tokens apart
    sha256 = models.CharField(max_length=64, unique=True)
    # For these alone if it is limited: one that loses the last of them can do nothing.
    is_limited = models.BooleanField(default=False)
    configurations = models.ManyToManyField(Configuration, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def state(self) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return "expired"
        return "active"

    @property
    def usable_configurations(self) -> ConfigurationQuerySet:
        """Those that its user may use and it is made for."""
        usable = Configuration.objects.usable_by(self.user)
        if self.is_limited:
            usable = usable.filter(pk__in=self.configurations.values("pk"))
        return usable
