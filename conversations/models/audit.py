"""Who did what that matters for security, without any secret."""

from django.conf import settings
from django.db import models


class AuditEvent(models.Model):
    """One act: a login, a changed configuration, a token that was made or revoked, a role."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    actor_name = models.CharField(max_length=150, blank=True)  # stays when the user goes
    action = models.CharField(max_length=40)  # such as "login_failed"
    subject = models.CharField(max_length=200, blank=True)  # what or whom it concerned
    address = models.GenericIPAddressField(null=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-pk"]
        indexes = [models.Index(fields=["-at"], name="audit_by_time")]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
