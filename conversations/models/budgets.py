"""Limits of money and tokens, and what was used and promised of each."""

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.db.models import Q


class Budget(models.Model):
    """What a person, a group together or a token may use in a day, a month (UTC) or at all."""

    class Period(models.TextChoices):
        DAY = "day"
        MONTH = "month"
        ALWAYS = "always"

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
    )
    group = models.ForeignKey(
        Group, null=True, blank=True, on_delete=models.CASCADE, related_name="budgets"
    )
    token = models.ForeignKey(
        "conversations.ApiToken",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
    )
    period = models.CharField(max_length=10, choices=Period.choices, default=Period.MONTH)
    limit_usd = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    limit_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(
                name="budget_of_one",
                condition=Q(user__isnull=False, group__isnull=True, token__isnull=True)
                | Q(user__isnull=True, group__isnull=False, token__isnull=True)
                | Q(user__isnull=True, group__isnull=True, token__isnull=False),
                violation_error_message="Choose a person or a group, and only one.",
            ),
        ]

    def __str__(self) -> str:
        return f"budget {self.pk}"


class BudgetPeriod(models.Model):
    """One period of a budget: what is used up, and what running runs may still use."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    starts_at = models.DateTimeField()
    used_usd = models.DecimalField(max_digits=20, decimal_places=10, default=0)
    used_tokens = models.PositiveBigIntegerField(default=0)
    reserved_usd = models.DecimalField(max_digits=20, decimal_places=10, default=0)
    reserved_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["budget", "starts_at"], name="one_row_per_period")
        ]

    def __str__(self) -> str:
        return f"{self.budget_id} from {self.starts_at:%Y-%m-%d}"


class Reservation(models.Model):
    """What is kept of a period for one run until its end."""

    run = models.ForeignKey(
        "conversations.Run", on_delete=models.CASCADE, related_name="reservations"
    )
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="reservations")
    usd = models.DecimalField(max_digits=20, decimal_places=10, default=0)
    tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "period"], name="one_reservation_per_run")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.usd} USD, {self.tokens} tokens"
