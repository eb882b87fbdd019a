"""The tokens by which programs use the API for a person."""

from django.conf import settings
from django.db import models

from conversations.models.chats import Viewer, viewer_id
from providers.models import Configuration


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def visible_to(self, user: Viewer) -> "ApiTokenQuerySet":
        return self.filter(user_id=viewer_id(user))


class ApiToken(models.Model):
    """A secret that stands for its user. Only its hash is stored; it is shown once."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)  # its beginning, to tell tokens apart
    sha256 = models.CharField(max_length=64, unique=True)
    configurations = models.ManyToManyField(Configuration, blank=True)  # none: all of its user's
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"
