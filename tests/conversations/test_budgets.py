"""Budgets: no send passes a limit, whatever else is sent, and each end counts what it used."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.utils import timezone

from conversations import budgets, planning, recovery, runs
from conversations.errors import BudgetExceeded
from conversations.models import (
    ApiToken,
    Budget,
    BudgetPeriod,
    ChatSession,
    EventBatch,
    Message,
    Reservation,
    Run,
    UsageLog,
)
from conversations.outcomes import Metrics
from conversations.planning import Asked, Source
from conversations.runs import Owner
from providers.adapters.base import Parameters
from providers.models import Configuration
from providers.pricing import CostSource
from tests.faults.checks import wait_for_ends, wait_until
from tests.people import Person
from tests.servers.provider import (
    Provider,
    hang,
    head,
    openai_answer,
    openai_chunk,
    reset,
    send,
)

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
# What "hello" with max_tokens=100 is expected to use: 2 + 4 tokens in, 100 out, at 1 and 2 USD a
# million.
TOKENS = 106
USD = Decimal("0.000206")


def period(**fields: Any) -> BudgetPeriod:
    return BudgetPeriod.objects.get(**fields)


def amounts(row: BudgetPeriod) -> tuple[Any, ...]:
    return row.used_usd, row.used_tokens, row.reserved_usd, row.reserved_tokens


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


EXCEEDED = (429, "BUDGET_EXCEEDED")


# ---- Through the app


@pytest.fixture
def user(ada: Person) -> User:
    return User.objects.get(username="ada")


@pytest.fixture
def ask(ada: Person, openai: Configuration) -> Callable[..., httpx.Response]:
    """Sends "hello" in a new chat."""
    return lambda **fields: ada.send(ada.new_chat(), "hello", **{"max_tokens": 100, **fields})


@pytest.mark.parametrize(
    "limit", [{"limit_tokens": 4 * TOKENS - 1}, {"limit_usd": Decimal("0.0008")}]
)
@pytest.mark.parametrize("whose", ["a person's", "a group's"])
def test_twenty_sends_at_once_do_not_pass_a_limit_for_three(
    ada: Person,
    user: User,
    openai: Configuration,
    provider: Provider,
    settings: Any,
    limit: dict[str, Any],
    whose: str,
):
    settings.RUNS_PER_USER = 50
    group = Group.objects.create(name="staff")
    group.user_set.add(user)
    owner = {"user": user} if whose == "a person's" else {"group": group}
    Budget.objects.create(**owner, **limit)
    provider.route(head(), send(openai_chunk("begun")), hang(), model="double-1")
    chats = [ada.new_chat() for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        sends = [threads.submit(ada.send, chat, "hello", max_tokens=100) for chat in chats]
        answers = [send.result() for send in sends]
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 17
    assert {refusal(answer) for answer in answers if answer.status_code == 429} == {EXCEEDED}
    assert (Run.objects.count(), Message.objects.count()) == (3, 3)
    row = period()
    assert amounts(row) == (0, 0, 3 * USD, 3 * TOKENS)
    for answer in answers:
        if answer.status_code == 201:
            ada.stop(answer.json())
    wait_for_ends()
    assert len(provider.requests) == 3
    row.refresh_from_db()
    assert (row.reserved_usd, row.reserved_tokens) == (0, 0)
    assert row.used_tokens == sum(usage.total_tokens for usage in UsageLog.objects.all())
    assert ask_again(ada, chats[0]).status_code == 201


def ask_again(ada: Person, chat: str) -> httpx.Response:
    answer = ada.send(chat, "hello", max_tokens=100)
    if answer.status_code == 201:
        ada.stop(answer.json())
    return answer


def test_the_end_counts_what_was_used_in_place_of_what_was_reserved(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    Budget.objects.create(user=user, limit_usd=1)
    provider.reply(*openai_answer("an", " answer"))
    ada.events(ask().json())
    assert amounts(period()) == (Decimal("0.000025"), 18, 0, 0)  # 11 tokens in, 7 out
    assert UsageLog.objects.get().cost_usd == Decimal("0.000025")
    assert not Reservation.objects.exists()


def test_a_stop_counts_what_there_was_until_then(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    Budget.objects.create(user=user, limit_tokens=10_000)
    provider.reply(head(), send(openai_chunk("some words")), hang())
    run = ask().json()
    ada.read_until(run, "some words")
    assert amounts(period()) == (0, 0, USD, TOKENS)
    ada.stop(run)
    usage = UsageLog.objects.get()
    assert (usage.status, usage.total_tokens) == ("stopped", 9)
    assert amounts(period()) == (usage.cost_usd, 9, 0, 0)


@pytest.mark.parametrize(
    ("script", "tokens"),
    [
        ([head(401, "application/json"), send("{}")], 0),  # the provider did nothing
        ([head(), send(openai_chunk("some words")), reset()], 9),
    ],
)
def test_a_failed_run_counts_what_the_provider_did(
    ada: Person,
    user: User,
    ask: Callable[..., httpx.Response],
    provider: Provider,
    script: list[Any],
    tokens: int,
):
    Budget.objects.create(user=user, limit_tokens=10_000)
    provider.reply(*script)
    ada.events(ask().json())
    row = period()
    assert (row.used_tokens, row.reserved_usd, row.reserved_tokens) == (tokens, 0, 0)
    assert row.used_usd == (UsageLog.objects.get().cost_usd or 0)


def test_a_repeated_send_reserves_nothing_again(
    ada: Person, user: User, openai: Configuration, provider: Provider
):
    Budget.objects.create(user=user, limit_tokens=TOKENS)
    provider.reply(head(), send(openai_chunk("begun")), hang())
    chat = ada.new_chat()
    again = partial(ada.send, chat, "hello", max_tokens=100, idempotency_key="key")
    first, second = again(), again()
    assert (first.status_code, second.status_code) == (201, 200)
    assert period().reserved_tokens == TOKENS
    ada.stop(first.json())


def test_a_budget_that_is_made_while_an_answer_is_written_counts_it(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    run = ask().json()
    ada.read_until(run, "some words")
    Budget.objects.create(user=user, limit_tokens=10_000)
    ada.stop(run)
    assert amounts(period())[1:] == (9, 0, 0)


def test_a_session_that_streams_is_deleted_and_its_budget_keeps_what_was_used(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    Budget.objects.create(user=user, limit_tokens=10_000)
    provider.reply(head(), send(openai_chunk("some words")), hang())
    run = ask().json()
    ada.read_until(run, "some words")
    assert ada.post(f"/chat/{ChatSession.objects.get().pk}/delete/").status_code == 204
    assert not Run.objects.exists()
    assert amounts(period())[1:] == (9, 0, 0)


def test_a_person_is_deleted_and_what_their_runs_had_reserved_of_the_group_counts_as_used(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    group = Group.objects.create(name="staff")
    group.user_set.add(user)
    Budget.objects.create(group=group, limit_tokens=10_000)
    provider.reply(head(), send(openai_chunk("some words")), hang())
    ada.read_until(ask().json(), "some words")
    user.delete()
    wait_until(lambda: provider.busy == 0, "the provider has nothing to do")
    assert amounts(period()) == (USD, TOKENS, 0, 0)


# ---- By itself


@pytest.fixture
def person(make_user: Callable[..., User]) -> User:
    return make_user("grace")


Begin = Callable[..., Run]


@pytest.fixture
def begin(openai: Configuration) -> Begin:
    """Stores a run as `runs` does, at a moment of the test's choice."""

    def begin_one(
        user: User | None, moment: datetime = NOON, max_tokens: int | None = 100, **fields: Any
    ) -> Run:
        openai.refresh_from_db()
        asked = Asked("hello", Parameters(max_tokens=max_tokens))
        planned = planning.plan(openai, asked, None, None, [], moment)
        with transaction.atomic():
            run = Run.objects.create(
                id=planned.run_id,
                user=user,
                configuration=openai,
                model=openai.model,
                worker=uuid4(),
                **fields,
            )
            Run.objects.filter(pk=run.pk).update(started_at=moment)
            budgets.reserve(run, planned, moment)
        return Run.objects.get(pk=run.pk)

    return begin_one


def used(
    prompt: int | None = 6, completion: int | None = 10, cost: str | None = "0.000026"
) -> Metrics:
    return Metrics(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=None,
        cached_tokens=None,
        cost_usd=None if cost is None else Decimal(cost),
        cost_source=CostSource.COMPUTED,
        estimated=False,
        processing_time=1.0,
        time_to_first_chunk=None,
        tokens_per_second=None,
    )


def settle(run: Run, metrics: Metrics) -> None:
    with transaction.atomic():
        budgets.settle(run, metrics)
    Run.objects.filter(pk=run.pk).update(status=Run.Status.DONE)


@pytest.mark.parametrize(
    ("kind", "last", "first"),
    [
        ("day", datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
        ("month", datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
        ("month", datetime(2026, 12, 31, 23, 0, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("day", datetime(2028, 2, 28, 23, 0, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_budget_begins_anew_with_its_period_in_utc(
    person: User, begin: Begin, kind: str, last: datetime, first: datetime
):
    Budget.objects.create(user=person, period=kind, limit_tokens=TOKENS)
    settle(begin(person, last), used())
    with pytest.raises(BudgetExceeded) as refused:
        begin(person, last)
    assert refused.value.retry_after == (first - last).total_seconds()
    assert f"resets on {first.day} {first:%B %Y} at 00:00 UTC" in str(refused.value)
    begin(person, first)
    assert BudgetPeriod.objects.count() == 2


def test_a_run_counts_in_the_period_in_which_it_began(person: User, begin: Begin):
    Budget.objects.create(user=person, period="day", limit_tokens=1_000)
    late = begin(person, NOON)
    begin(person, NOON + timedelta(days=1))
    settle(late, used())
    assert amounts(period(starts_at=NOON.replace(hour=0)))[1:] == (16, 0, 0)
    assert amounts(period(starts_at=NOON.replace(hour=0) + timedelta(days=1)))[1] == 0


def test_a_budget_for_good_never_begins_anew_and_promises_nothing(person: User, begin: Begin):
    Budget.objects.create(user=person, period="always", limit_tokens=TOKENS + 10)
    settle(begin(person), used())
    with pytest.raises(BudgetExceeded) as refused:
        begin(person, NOON + timedelta(days=10_000))
    assert refused.value.retry_after is None
    assert "does not reset" in str(refused.value)
    assert "100 of 116 tokens" in str(refused.value)


def test_all_members_of_a_group_share_its_budget(
    person: User, make_user: Callable[..., User], begin: Begin
):
    friend, stranger = make_user("friend"), make_user("stranger")
    group = Group.objects.create(name="readers")
    group.user_set.set([person, friend])
    Budget.objects.create(group=group, limit_tokens=TOKENS)
    begin(person)
    with pytest.raises(BudgetExceeded, match="the group “readers” shares"):
        begin(friend)
    begin(stranger)


def test_a_token_has_a_budget_of_its_own_and_counts_in_that_of_its_owner(
    person: User, begin: Begin
):
    ci, other = [
        ApiToken.objects.create(user=person, name=name, prefix=name, sha256=name)
        for name in ("ci", "other")
    ]
    Budget.objects.create(token=ci, limit_tokens=TOKENS)
    Budget.objects.create(user=person, limit_tokens=3 * TOKENS)
    begin(person, api_token=ci)
    with pytest.raises(BudgetExceeded, match="the API token “ci”"):
        begin(person, api_token=ci)
    begin(person, api_token=other)
    begin(person)
    with pytest.raises(BudgetExceeded, match="left in your monthly budget"):
        begin(person, api_token=other)


def test_the_token_that_a_run_is_asked_with_is_found(person: User, openai: Configuration):
    openai.refresh_from_db()
    token = ApiToken.objects.create(user=person, name="ci", prefix="ci", sha256="ci")
    Budget.objects.create(token=token, limit_tokens=1)
    asked = Asked("hello", source=Source(api_token=token.pk))
    with pytest.raises(BudgetExceeded):
        runs.start_alone(person, openai, asked, Owner(uuid4(), 10))
    assert not Run.objects.exists()
    assert not BudgetPeriod.objects.exists()
    assert runs.start_alone(person, openai, Asked("hello"), Owner(uuid4(), 10)).plan


def test_a_run_of_nobody_has_no_budget(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=1)
    Budget.objects.create(group=Group.objects.create(name="all"), limit_tokens=1)
    settle(begin(None), used())
    assert not BudgetPeriod.objects.exists()


def test_a_budget_that_is_not_active_limits_nothing(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=1, is_active=False)
    begin(person)


def test_one_budget_without_room_takes_nothing_of_the_others(person: User, begin: Begin):
    Budget.objects.create(user=person, period="day", limit_tokens=1_000)
    Budget.objects.create(user=person, period="month", limit_tokens=TOKENS)
    settle(begin(person), used())
    with pytest.raises(BudgetExceeded, match="your monthly budget"):
        begin(person)
    assert {row.reserved_tokens for row in BudgetPeriod.objects.all()} == {0}
    assert not Reservation.objects.exists()


def test_of_two_budgets_without_room_the_one_that_resets_last_is_named(person: User, begin: Begin):
    for kind in ("day", "month", "day"):
        Budget.objects.create(user=person, period=kind, limit_tokens=TOKENS)
    begin(person, NOON - timedelta(days=20))
    with pytest.raises(BudgetExceeded, match="your monthly budget") as refused:
        begin(person, NOON - timedelta(days=20))
    assert refused.value.retry_after == 20.5 * 86_400


def test_a_request_that_is_larger_than_the_whole_budget_is_not_told_to_wait(
    person: User, begin: Begin
):
    Budget.objects.create(user=person, limit_usd=Decimal("0.0001"))
    with pytest.raises(
        BudgetExceeded, match=r"up to \$0.00021, more than the \$0.00010"
    ) as refused:
        begin(person)
    assert refused.value.retry_after is None


def test_without_max_tokens_the_setting_says_how_long_an_answer_may_become(
    person: User, begin: Begin, settings: Any
):
    Budget.objects.create(user=person, limit_tokens=10_000)
    settings.BUDGET_ANSWER_TOKENS = 50
    begin(person, max_tokens=None)
    assert period().reserved_tokens == 56


def test_what_was_used_beyond_the_reservation_counts_too(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=200)
    settle(begin(person), used(6, 500))
    assert period().used_tokens == 506
    with pytest.raises(BudgetExceeded, match="0 of 200 tokens are left"):
        begin(person)


def test_what_is_held_back_by_answers_under_way_is_said(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=150)
    begin(person)
    with pytest.raises(BudgetExceeded, match="answers under way hold back 106 tokens"):
        begin(person)


class TestUnknownPrices:
    @pytest.fixture(autouse=True)
    def _unpriced(self, openai: Configuration):
        Configuration.objects.update(output_price=None)

    def test_by_default_tokens_alone_are_counted(self, person: User, begin: Begin):
        Budget.objects.create(user=person, limit_usd=Decimal("0.0001"), limit_tokens=TOKENS)
        settle(begin(person), used(cost=None))
        assert amounts(period()) == (0, 16, 0, 0)
        with pytest.raises(BudgetExceeded, match="tokens are left"):
            begin(person)

    def test_they_can_be_refused_under_a_budget_of_money(
        self, person: User, begin: Begin, settings: Any
    ):
        settings.BUDGET_UNKNOWN_PRICE = "refuse"
        Budget.objects.create(user=person, limit_usd=1)
        with pytest.raises(
            BudgetExceeded, match=r"double-1 costs is not known.* \$1.00"
        ) as refused:
            begin(person)
        assert refused.value.retry_after is None
        assert "resets on 1 April 2026" in str(refused.value)

    def test_under_a_budget_of_tokens_they_do_not_matter(
        self, person: User, begin: Begin, settings: Any
    ):
        settings.BUDGET_UNKNOWN_PRICE = "refuse"
        Budget.objects.create(user=person, limit_tokens=TOKENS)
        begin(person)


def test_a_cost_that_stays_unknown_counts_as_what_was_reserved(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_usd=1)
    settle(begin(person), used(cost=None))
    assert amounts(period()) == (USD, 16, 0, 0)


def test_a_provider_that_did_nothing_costs_nothing(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_usd=1)
    settle(begin(person), used(None, None, None))
    assert amounts(period()) == (0, 0, 0, 0)


def test_money_adds_up_exactly(person: User, begin: Begin):
    """As a binary fraction, a tenth added up a hundred times is not ten."""
    Budget.objects.create(user=person, limit_usd=Decimal("99999999.9999"), limit_tokens=10**18)
    tenth = Decimal("0.1") + Decimal("1E-10")
    for _ in range(100):
        settle(begin(person), used(cost=str(tenth)))
    row = period()
    assert row.used_usd == 100 * tenth == Decimal("10.00000001")
    assert (row.reserved_usd, row.reserved_tokens) == (0, 0)


def test_the_last_fraction_of_a_budget_can_be_used_and_not_more(person: User, begin: Begin):
    budget = Budget.objects.create(user=person, limit_usd=1)
    begin(person)
    BudgetPeriod.objects.update(used_usd=1 - 2 * USD)
    begin(person)
    BudgetPeriod.objects.update(used_usd=1 - 3 * USD + Decimal("1E-10"))
    with pytest.raises(BudgetExceeded):
        begin(person)
    assert period(budget=budget).reserved_usd == 2 * USD


def test_a_run_whose_process_is_gone_is_settled_when_it_is_ended(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_usd=1)
    run = begin(person, lease_until=timezone.now() - timedelta(seconds=1), input_tokens=6)
    EventBatch.objects.create(
        run=run, first=1, last=1, lines='{"type":"chunk","content":"some words","tokens":3}'
    )
    assert list(recovery.recover([])) == [run.pk]
    assert amounts(period()) == (Decimal("0.000012"), 9, 0, 0)
    assert not Reservation.objects.exists()


def test_settling_locks_what_all_runs_of_the_process_have_reserved_in_one_order(
    person: User, make_user: Callable[..., User], begin: Begin
):
    """Several runs end in one transaction: whatever their order, each is counted where it began."""
    group = Group.objects.create(name="readers")
    friend = make_user("friend")
    group.user_set.set([person, friend])
    for fields in ({"user": friend}, {"group": group}, {"user": person}):
        Budget.objects.create(limit_tokens=1_000, **fields)
    worker = uuid4()
    pair = [begin(one) for one in (person, friend)]
    Run.objects.update(worker=worker)
    with transaction.atomic():
        for run in pair:
            run.refresh_from_db()
            budgets.settle(run, used())
    counted = {row.budget.whose: amounts(row)[1:] for row in BudgetPeriod.objects.all()}
    assert counted == {
        "grace": (16, 0, 0),
        "friend": (16, 0, 0),
        "the group readers": (32, 0, 0),
    }
