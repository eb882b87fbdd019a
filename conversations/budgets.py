"""Budgets: what a run may use is reserved before anything is sent, and settled at its end.

- A run is counted in every active budget of its person, of each of that person's groups and of its
  API token, in the period in which it started.
- `reserve` takes what the run is expected to need at most, in one conditional UPDATE for each
  budget: of many sends at once no more get through than there is room for.
- `settle` puts what the run has used in its place, however it ended. Where the provider did no
  work, nothing is counted; where a cost stays unknown, what was reserved for it is.
- A budget that is made while a run is under way counts that run at its end.
- A model whose prices are unknown is counted in tokens alone, or, with BUDGET_UNKNOWN_PRICE=refuse,
  not used at all under a budget of money.

An answer may become longer than expected where the request has no max_tokens: then a budget is
overdrawn by that much, and the next request is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from math import ceil
from typing import Any

from django.conf import settings
from django.db.models import F

from conversations.errors import BudgetExceeded
from conversations.models import Budget, BudgetPeriod, Reservation, Run
from conversations.models.budgets import MONEY, BudgetQuerySet, Period, money
from conversations.money import dollars
from conversations.outcomes import Metrics
from conversations.planning import Plan
from providers.events import Usage
from providers.pricing import Prices, cost_usd

MOST_USD = Decimal(1_000_000)  # that is reserved for one request: more is a slip in a price
RETRY_WHILE_HELD = 5  # s, where answers under way may give back enough


@dataclass(frozen=True, slots=True)
class Need:
    """What a request is expected to use at most. `usd` is None where a price is unknown."""

    tokens: int
    usd: Decimal | None


def need(input_tokens: int, max_tokens: int | None, prices: Prices) -> Need:
    """That of a request of about `input_tokens`, whose answer may have `max_tokens`; None stands
    for BUDGET_ANSWER_TOKENS."""
    answer = settings.BUDGET_ANSWER_TOKENS if max_tokens is None else max_tokens
    usage = Usage(prompt_tokens=input_tokens, completion_tokens=answer)
    cost, _ = cost_usd(usage, prices, is_estimated=True)
    if cost is not None:
        cost = min(cost, MOST_USD).quantize(MONEY)
    return Need(input_tokens + answer, cost)


# ---- limits


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget in one of its periods, in USD or in tokens."""

    budget: Budget
    is_money: bool
    most: Decimal
    used: Decimal
    reserved: Decimal  # by runs that are under way
    resets_at: datetime | None  # None: never

    @property
    def left(self) -> Decimal:
        return max(self.most - self.used - self.reserved, Decimal(0))

    @property
    def share_taken(self) -> float:
        """Of the limit, from 0 to 1."""
        return float(1 - self.left / self.most)

    @property
    def name(self) -> str:
        """The budget as the people whom it limits would call it."""
        budget = self.budget
        if budget.group is not None:
            return f"the {budget.kind} that the group “{budget.group.name}” shares"
        if budget.token is not None:
            return f"the {budget.kind} of the API token “{budget.token.name}”"
        return f"your {budget.kind}"

    @property
    def next_reset(self) -> str:
        """The day and hour, or "never"."""
        return f"{self.resets_at:%-d %B %Y at %H:%M} UTC" if self.resets_at else "never"

    @property
    def reset(self) -> str:
        """A sentence."""
        if self.resets_at is None:
            return "It does not reset: only an administrator can raise it."
        return f"It resets on {self.next_reset}."

    def wanted(self, needed: Need) -> Decimal:
        """What a request needs of it; 0 where that is unknown."""
        return (needed.usd or Decimal(0)) if self.is_money else Decimal(needed.tokens)

    def refuses(self, needed: Need) -> bool:
        """Whether it takes no request of this kind, as nobody knows what that costs."""
        return self.is_money and needed.usd is None and settings.BUDGET_UNKNOWN_PRICE == "refuse"

    def has_room(self, needed: Need) -> bool:
        is_enough = self.used + self.reserved + self.wanted(needed) <= self.most
        return is_enough and not self.refuses(needed)

    @property
    def left_of_all(self) -> str:
        """For people: "$0.20 of $1.00", or "200 of 1,000 tokens"."""
        left = dollars(self.left) if self.is_money else f"{self.left:,f}"
        return f"{left} of {self.words(self.most)}"

    def wanted_words(self, amount: Decimal) -> str:
        """The same for what a request needs, rounded up: it must not look as if it had room."""
        return dollars(amount, ROUND_UP) if self.is_money else self.words(amount)

    def words(self, amount: Decimal) -> str:
        """An amount of it, for people: "$1.28", or "1,280 tokens"."""
        return dollars(amount) if self.is_money else f"{amount:,f} tokens"


def limits(budget: Any, moment: datetime) -> list[Limit]:
    """The limits of a budget that comes from `in_period_of(moment)`."""
    _, resets_at = Period(budget.period).span(moment)
    of_money = (budget.limit_usd, budget.used_usd, budget.reserved_usd)
    of_tokens = (budget.limit_tokens, budget.used_tokens, budget.reserved_tokens)
    return [
        Limit(budget, is_money, Decimal(most), Decimal(used), Decimal(reserved), resets_at)
        for is_money, (most, used, reserved) in ((True, of_money), (False, of_tokens))
        if most is not None
    ]


def of_person(user_id: int, moment: datetime) -> list[Limit]:
    """The limits of what a person asks in the chat. Reads the database once."""
    return _limits(_applying(user_id, None, moment), moment)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the message box shows of a person's limits: the tightest, and, where it is known, what
    the next request needs."""

    limit: Limit
    needed: Need | None = None

    @classmethod
    def on(cls, limits: Sequence[Limit], needed: Need | None = None) -> "Outlook | None":
        """None where there are no limits. One without room for the request is the tightest."""
        if not limits:
            return None

        def tightness(limit: Limit) -> tuple[bool, float]:
            return needed is not None and not limit.has_room(needed), limit.share_taken

        return cls(max(limits, key=tightness), needed)

    @property
    def has_room(self) -> bool:
        return self.needed is None or self.limit.has_room(self.needed)

    @property
    def cost(self) -> str:
        """Of the next request, for people."""
        if self.needed is None or self.needed.usd is None:
            return "cost unknown"
        return dollars(self.needed.usd)


def _applying(user_id: int | None, token_id: int | None, moment: datetime) -> BudgetQuerySet:
    return Budget.objects.applying_to(user_id, token_id).in_period_of(moment)


def _limits(budgets: Iterable[Budget], moment: datetime) -> list[Limit]:
    return [limit for budget in budgets for limit in limits(budget, moment)]


# ---- before a run


def reserve(run: Run, planned: Plan, moment: datetime) -> None:
    """Reserves what a new run may use, in the transaction that stores it. Raises BudgetExceeded,
    and then nothing must be stored."""
    budgets: list[Any] = list(_applying(run.user_id, run.api_token_id, moment))
    if not budgets:
        return
    needed = need(planned.input_tokens, planned.max_tokens, planned.prices)
    for limit in _limits(budgets, moment):
        if limit.refuses(needed):
            raise _unpriced(run, limit)
    usd = needed.usd or Decimal(0)
    # In one order everywhere, so that no two wait for each other.
    periods = sorted(_periods(budgets, moment), key=lambda pair: pair[1])
    full = [
        budget.pk for budget, period in periods if not _take(budget, period, usd, needed.tokens)
    ]
    if full:
        raise _exceeded(needed, moment, full)
    Reservation.objects.bulk_create(
        Reservation(run=run, period_id=period, usd=usd, tokens=needed.tokens)
        for _, period in periods
    )


def _take(budget: Budget, period_id: int, usd: Decimal, tokens: int) -> bool:
    """Reserves if there is room: the one statement that decides. Its conditions are about the
    row itself, which a database looks at again when it had to wait for another writer."""
    row = BudgetPeriod.objects.filter(pk=period_id)
    if budget.limit_usd is not None:
        row = row.filter(used_usd__lte=money(budget.limit_usd - usd) - F("reserved_usd"))
    if budget.limit_tokens is not None:
        room = budget.limit_tokens - tokens
        row = row.filter(used_tokens__lte=room - F("reserved_tokens"))
    taken = row.update(
        reserved_usd=F("reserved_usd") + money(usd), reserved_tokens=F("reserved_tokens") + tokens
    )
    return taken == 1


def _periods(budgets: Sequence[Any], moment: datetime) -> list[tuple[Budget, int]]:
    """Each budget with the id of its period, which is made where there is none yet. `period_id`
    is None on budgets without one."""
    starts = {budget.pk: Period(budget.period).span(moment)[0] for budget in budgets}
    new = [budget.pk for budget in budgets if budget.period_id is None]
    made: dict[int, int] = {}
    if new:
        BudgetPeriod.objects.bulk_create(
            [BudgetPeriod(budget_id=pk, starts_at=starts[pk]) for pk in new],
            ignore_conflicts=True,  # another send may make it at this moment
        )
        rows = BudgetPeriod.objects.filter(budget__in=new).values_list("budget", "starts_at", "pk")
        made = {budget: pk for budget, starts_at, pk in rows if starts_at == starts[budget]}
    return [(budget, budget.period_id or made[budget.pk]) for budget in budgets]


def _exceeded(needed: Need, moment: datetime, full: Sequence[int]) -> BudgetExceeded:
    """The reason: of several limits without room the one that resets last."""
    now = _limits(Budget.objects.filter(pk__in=full).in_period_of(moment), moment)
    without_room = [limit for limit in now if not limit.has_room(needed)]
    if not without_room:
        # Another run has just given back what it had reserved, or the budget was changed.
        return BudgetExceeded("There was no room in your budget a moment ago. Send it again.", 1)
    limit = max(without_room, key=lambda limit: limit.resets_at or datetime.max.replace(tzinfo=UTC))
    wanted = limit.wanted(needed)
    retry_after: int | None
    if wanted > limit.most:
        why, retry_after = f"more than the {limit.words(limit.most)} of {limit.name}", None
    else:
        why = f"and {limit.left_of_all} {'is' if limit.is_money else 'are'} left in {limit.name}"
        retry_after = _seconds_until_reset(limit, moment)
        if limit.reserved:
            why += f"; answers under way hold back {limit.words(limit.reserved)}"
        if limit.used + wanted <= limit.most:
            retry_after = RETRY_WHILE_HELD
    may = "cost" if limit.is_money else "use"
    return BudgetExceeded(
        f"This request may {may} up to {limit.wanted_words(wanted)}, "
        f"{why}. {limit.reset} To ask for less, lower Max tokens or send fewer earlier messages.",
        retry_after,
    )


def _unpriced(run: Run, limit: Limit) -> BudgetExceeded:
    return BudgetExceeded(
        f"What {run.model} costs is not known, so that it cannot be used under "
        f"{limit.name}, {limit.left_of_all} of which is left. {limit.reset} "
        "Choose a model whose price is known, or have an administrator enter its prices.",
        None,
    )


def _seconds_until_reset(limit: Limit, moment: datetime) -> int | None:
    if limit.resets_at is None:
        return None
    return ceil((limit.resets_at - moment).total_seconds())


# ---- after a run


def settle(run: Run, metrics: Metrics) -> None:
    """Counts what a run has used in place of what was reserved for it, in the transaction of its
    end."""
    reservations = _reservations(run)
    if not reservations:
        return
    # The periods of all runs of this process are locked first, in one order: the journal's writer
    # ends several of them in a transaction, and must not wait for a send that waits for it.
    of_process = Reservation.objects.filter(run__worker=run.worker).values("period")
    list(BudgetPeriod.objects.select_for_update().filter(pk__in=of_process).order_by("pk"))
    counts = (metrics.prompt_tokens, metrics.completion_tokens)
    tokens = sum(filter(None, counts))
    did_nothing = counts == (None, None) and metrics.cost_usd is None
    for reservation in reservations:
        usd = metrics.cost_usd
        if usd is None:
            usd = Decimal(0) if did_nothing else reservation.usd
        reservation.count(usd.quantize(MONEY), tokens)
    run.reservations.all().delete()


def _reservations(run: Run) -> list[Reservation]:
    """Those of a run; of nothing in budgets that apply to it by now, and did not at its start."""
    reserved = list(run.reservations.select_related("period"))
    known = {reservation.period.budget_id for reservation in reserved}
    moment = run.started_at
    later = [
        budget
        for budget in _applying(run.user_id, run.api_token_id, moment)
        if budget.pk not in known
    ]
    empty = [Reservation(run=run, period_id=period) for _, period in _periods(later, moment)]
    return [*reserved, *empty]
