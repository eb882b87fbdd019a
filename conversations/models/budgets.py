"""Limits of money and tokens, and what was used and reserved of each."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, FilteredRelation, Q
from django.db.models.functions import Coalesce, Least
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from conversations.models.runs import Run

MONEY = Decimal("1E-10")  # USD, as fine as usage logs have it
# No sum grows beyond it, whatever a provider says that an answer cost; two of it fit a column.
MOST_MONEY = Decimal(400_000_000)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)  # of the one period that never ends


class MoneyField(models.BigIntegerField[Any, Any]):
    """An amount in USD, as a Decimal. The column counts in units of MONEY, because SQLite has no
    decimals, and what is added up there must stay exact."""

    _pyi_private_set_type: Any  # for mypy's plugin, which else takes only what integers take

    def from_db_value(self, value: int | None, *_: Any) -> Decimal | None:
        return None if value is None else value * MONEY

    def to_python(self, value: Any) -> Any:
        return None if value is None else Decimal(value)

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None else int((Decimal(value) / MONEY).to_integral_value())


class Period(models.TextChoices):
    """How often a budget begins anew, in UTC."""

    DAY = "day"
    MONTH = "month"
    ALWAYS = "always", "For good, without a reset"

    def span(self, moment: datetime) -> tuple[datetime, datetime | None]:
        """The start of the period that `moment` lies in, and of the next one; None where none
        comes."""
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Period.DAY:
            return day, day + timedelta(days=1)
        if self is Period.MONTH:
            first = day.replace(day=1)
            return first, (first + timedelta(days=32)).replace(day=1)
        return BEGINNING, None


class BudgetQuerySet(models.QuerySet["Budget"]):
    def applying_to(self, user_id: int | None, token_id: int | None) -> "BudgetQuerySet":
        """The active ones in which a run of this person by this API token counts."""
        whose = Q(pk=None)
        if user_id is not None:
            whose |= Q(user_id=user_id) | Q(group__in=Group.objects.filter(user=user_id))
        if token_id is not None:
            whose |= Q(token_id=token_id)
        return self.filter(whose, is_active=True)

    def in_period_of(self, moment: datetime) -> "BudgetQuerySet":
        """Each with the row of its period at `moment`: `period_id` (None if there is none yet),
        `used_usd`, `used_tokens`, `reserved_usd` and `reserved_tokens`."""
        now = Q()
        for period in Period:
            now |= Q(period=period, periods__starts_at=period.span(moment)[0])
        counts = {
            name: Coalesce(F(f"current__{name}"), 0)
            for name in ("used_tokens", "reserved_tokens", "used_usd", "reserved_usd")
        }
        return self.select_related("group", "token").annotate(
            current=FilteredRelation("periods", condition=now),
            period_id=F("current__pk"),
            **counts,
        )


class Budget(models.Model):
    """What a person, a group together or a token may use in a day, a month (UTC) or at all."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
        help_text="Limits one person, by whatever way they ask: the chat, the API or the monitor.",
    )
    group = models.ForeignKey(
        Group,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
        help_text="All members of the group share this budget: what one of them uses is gone for "
        "the others. To give each of them as much, make a budget for each person.",
    )
    token = models.ForeignKey(
        "conversations.ApiToken",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
        verbose_name="API token",
        help_text="Limits what is asked with this token. It counts in its owner's budgets too.",
    )
    period = models.CharField(
        max_length=10,
        choices=Period.choices,
        default=Period.MONTH,
        help_text="When it begins anew, in UTC: at midnight, on the first of the month, or never.",
    )
    limit_usd = models.DecimalField(
        "limit in USD",
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
        help_text="Empty for no limit of money.",
    )
    limit_tokens = models.PositiveBigIntegerField(
        "limit in tokens",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of requests and answers together. Empty for no limit of tokens.",
    )
    is_active = models.BooleanField("active", default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BudgetQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(
                name="budget_of_one",
                condition=Q(user__isnull=False, group__isnull=True, token__isnull=True)
                | Q(user__isnull=True, group__isnull=False, token__isnull=True)
                | Q(user__isnull=True, group__isnull=True, token__isnull=False),
                violation_error_message="Choose a person, a group or an API token, and only one.",
            ),
            models.CheckConstraint(
                name="budget_with_a_limit",
                # A comparison with nothing is not false to a constraint.
                condition=Q(limit_usd__isnull=False, limit_usd__gt=0)
                | Q(limit_tokens__isnull=False, limit_tokens__gt=0),
                violation_error_message="Set a limit in USD, in tokens, or both.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.whose}"

    @property
    def kind(self) -> str:
        """What it is called: a daily budget, a monthly budget, a budget."""
        words = {Period.DAY: "daily budget", Period.MONTH: "monthly budget"}
        return words.get(Period(self.period), "budget")

    @property
    def whose(self) -> str:
        """Whom it limits, for those who look after budgets."""
        if self.group is not None:
            return f"the group {self.group.name}"
        if self.token is not None:
            return f"the API token {self.token.name}"
        return str(self.user)


class BudgetPeriod(models.Model):
    """One period of a budget: what is used up, and what running runs may still use."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    starts_at = models.DateTimeField()
    used_usd = MoneyField(default=Decimal(0))
    used_tokens = models.PositiveBigIntegerField(default=0)
    reserved_usd = MoneyField(default=Decimal(0))
    reserved_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["budget", "starts_at"], name="one_row_per_period")
        ]

    def __str__(self) -> str:
        return f"{self.budget_id} from {self.starts_at:%Y-%m-%d}"


class Reservation(models.Model):
    """What is kept of a period for one run until its end."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="reservations")
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="reservations")
    usd = MoneyField(default=Decimal(0))
    tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "period"], name="one_reservation_per_run")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.usd} USD, {self.tokens} tokens"

    def count(self, usd: Decimal, tokens: int) -> None:
        """Puts what the run has used in the place of what was reserved for it, in one statement.
        The row itself goes with its run, or is deleted by who calls this."""
        sum_usd = F("used_usd") + money(min(usd, MOST_MONEY))
        BudgetPeriod.objects.filter(pk=self.period_id).update(
            used_usd=Least(sum_usd, money(MOST_MONEY), output_field=MoneyField()),
            used_tokens=F("used_tokens") + tokens,
            reserved_usd=F("reserved_usd") - money(self.usd),
            reserved_tokens=F("reserved_tokens") - self.tokens,
        )


def money(amount: Decimal) -> models.Value:
    """An amount in USD for an expression over columns of money."""
    return models.Value(amount, output_field=MoneyField())


@receiver(pre_delete, sender=Run)
def settle_deleted_run(instance: Run, **_: Any) -> None:
    """A run that is deleted before its end, with its person, has no end that would settle it. What
    it came to is not known, and all that was reserved counts as used."""
    if instance.is_running:
        for reservation in instance.reservations.all():
            reservation.count(reservation.usd, reservation.tokens)
