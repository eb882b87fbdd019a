"""Budgets: no send passes a limit, whatever else is sent, and each end counts what it used."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from conversations import bodies, budgets, planning, recovery, runs, tokens
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
from conversations.models.budgets import BEGINNING, MOST_MONEY, Period
from conversations.outcomes import Metrics
from conversations.planning import Asked, Source
from conversations.runs import Owner
from providers.adapters.base import Parameters
from providers.models import Configuration
from providers.pricing import CostSource
from tests.faults.checks import wait_for_ends, wait_until
from tests.people import Person, parse
from tests.servers.provider import (
    Provider,
    hang,
    head,
    openai_answer,
    openai_chunk,
    reset,
    send,
    until,
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
    ("whose", "limit"),
    [
        ("a person's", {"limit_tokens": 4 * TOKENS - 1}),
        ("a group's", {"limit_usd": Decimal("0.0007")}),
    ],
)
def test_twenty_sends_at_once_do_not_pass_a_limit_for_three(
    ada: Person,
    user: User,
    openai: Configuration,
    provider: Provider,
    settings: Any,
    whose: str,
    limit: dict[str, Any],
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
    assert row.used_tokens == sum(usage.total_tokens or 0 for usage in UsageLog.objects.all())
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


def test_a_budget_that_is_deleted_while_an_answer_is_written_does_not_hinder_its_end(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    budget = Budget.objects.create(user=user, limit_tokens=10_000)
    provider.reply(head(), send(openai_chunk("some words")), hang())
    run = ask().json()
    ada.read_until(run, "some words")
    budget.delete()
    assert ada.stop(run)["stopped"] is True
    assert UsageLog.objects.get().status == "stopped"


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
    gate = threading.Event()
    provider.reply(
        head(), send(openai_chunk("some words")), until(gate), *openai_answer("more")[1:]
    )
    ada.read_until(ask().json(), "some words")
    user.delete()
    gate.set()
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
    settle(begin(person, NOON - timedelta(days=20)), used())
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


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_output_tokens": 7}, 7),
        ({"options": {"num_predict": 7}}, 7),
        ({"options": {"num_predict": -1}}, None),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": "3"}, 7),
        ({"max_tokens": 10**40, "n": 10**40}, 10**9),
        ({"max_tokens": True, "options": [7]}, None),
        ({"max_tokens": 7.5}, None),
    ],
)
def test_a_body_tells_how_long_its_answer_may_become(body: dict[str, Any], tokens: int | None):
    assert bodies.answer_tokens(body) == tokens


def test_of_a_body_all_texts_are_counted_and_no_image():
    image = "iVBOR" * 1_000
    content: list[Any] = [
        {"type": "text", "text": "four"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "image", "source": {"type": "base64", "data": image}},
    ]
    body = {"system": "eight ch", "messages": [{"content": content, "images": [image]}], "n": 1}
    # The two texts, and four words that say what the parts are.
    assert bodies.text_tokens(body) == (2 + 1) + (1 + 3 + 2 + 2)
    nested: Any = "four"
    for _ in range(100_000):
        nested = [nested]
    assert bodies.text_tokens({"messages": nested}) == 1


def test_what_an_edited_body_asks_for_is_reserved(person: User, openai: Configuration):
    openai.refresh_from_db()
    Budget.objects.create(user=person, limit_tokens=1_000_000)
    body = {"model": "double-1", "messages": [{"content": "x" * 4_000}], "max_tokens": 5_000}
    asked = Asked("hello", Parameters(max_tokens=10), body=body)
    runs.start_alone(person, openai, asked, Owner(uuid4(), 10))
    assert period().reserved_tokens == 1_002 + 5_000


def test_what_a_configuration_adds_to_each_request_is_reserved(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=10_000)
    Configuration.objects.update(extra_body={"max_completion_tokens": 5_000})
    begin(person, max_tokens=None)
    assert period().reserved_tokens == 5_006


def test_what_was_used_beyond_the_reservation_counts_too(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=200)
    settle(begin(person), used(6, 500))
    assert period().used_tokens == 506
    with pytest.raises(BudgetExceeded, match="0 of 200 tokens are left"):
        begin(person)


def test_what_is_held_back_by_answers_under_way_is_said(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=150)
    begin(person)
    with pytest.raises(BudgetExceeded, match="answers under way hold back 106 tokens") as refused:
        begin(person)
    assert refused.value.retry_after == 5  # they may give back enough
    BudgetPeriod.objects.update(used_tokens=45)
    with pytest.raises(BudgetExceeded, match="answers under way hold back 106 tokens") as refused:
        begin(person)
    assert refused.value.retry_after == 12 * 3_600


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
    """Beside a large sum, binary fractions have no room for a small one."""
    Budget.objects.create(user=person, limit_usd=Decimal("99999999.9999"), limit_tokens=10**18)
    costs = ["12345678.1", *["0.1000000001"] * 10]
    for cost in costs:
        settle(begin(person), used(cost=cost))
    row = period()
    assert row.used_usd == sum(map(Decimal, costs)) == Decimal("12345679.100000001")
    assert (row.reserved_usd, row.reserved_tokens) == (0, 0)


def test_no_cost_that_a_provider_makes_up_breaks_the_sums(person: User, begin: Begin):
    Budget.objects.create(user=person, limit_tokens=10**18)
    for _ in range(3):
        settle(begin(person), used(cost="9000000000"))
    assert period().used_usd == MOST_MONEY


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


def test_sends_and_the_ends_of_several_runs_never_wait_for_each_other_in_a_circle(
    make_user: Callable[..., User], begin: Begin
):
    """The journal ends many runs in one transaction, in any order, while a send takes its budgets
    one after the other."""
    low, high = [Group.objects.create(name=name) for name in ("low", "high")]
    for group in (low, high):
        Budget.objects.create(group=group, limit_tokens=1_000)
    people = [make_user(name) for name in ("short", "tall", "both")]
    for person, groups in zip(people, ([low], [high], [low, high]), strict=True):
        person.groups.set(groups)
    short, tall = [begin(person) for person in people[:2]]
    Run.objects.update(worker=uuid4())

    def send_of_both() -> Run:
        try:
            return begin(people[2])
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        with transaction.atomic():
            budgets.settle(Run.objects.get(pk=tall.pk), used())
            sending = threads.submit(send_of_both)
            wait_until(is_somebody_waiting, "the send waits for what is being settled")
            budgets.settle(Run.objects.get(pk=short.pk), used())
        sending.result(10)
    assert {amounts(row)[1:] for row in BudgetPeriod.objects.all()} == {(16, USD, TOKENS)}


def is_somebody_waiting() -> bool:
    if connection.vendor == "sqlite":
        return True  # a transaction that writes has the database for itself
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone() != (0,)


# ---- What people are told


@pytest.fixture
def full(user: User, openai: Configuration) -> Budget:
    """A budget of Ada's of which nothing is left."""
    budget = Budget.objects.create(user=user, limit_tokens=200)
    starts_at, _ = Period.MONTH.span(timezone.now())
    BudgetPeriod.objects.create(budget=budget, starts_at=starts_at, used_tokens=200)
    return budget


def seconds_until_reset() -> float:
    now = timezone.now()
    _, resets_at = Period.MONTH.span(now)
    assert resets_at
    return (resets_at - now).total_seconds()


@pytest.mark.contract("S12")
def test_a_program_gets_json_that_says_when_the_budget_resets(
    ada: Person, full: Budget, ask: Callable[..., httpx.Response], provider: Provider
):
    answer = ask()
    assert refusal(answer) == EXCEEDED
    assert int(answer.headers["Retry-After"]) == pytest.approx(seconds_until_reset(), abs=20)
    message = answer.json()["error"]["message"]
    assert "0 of 200 tokens are left in your monthly budget" in message
    assert f"It resets on 1 {next_month():%B %Y} at 00:00 UTC" in message
    assert not Message.objects.exists()
    assert not provider.requests


def next_month() -> datetime:
    _, resets_at = Period.MONTH.span(timezone.now())
    assert resets_at
    return resets_at


def test_of_a_budget_without_a_reset_no_time_is_promised(
    user: User, ask: Callable[..., httpx.Response]
):
    Budget.objects.create(user=user, limit_tokens=110, period="always")
    BudgetPeriod.objects.create(budget=Budget.objects.get(), starts_at=BEGINNING, used_tokens=100)
    answer = ask()
    assert refusal(answer) == EXCEEDED
    assert "Retry-After" not in answer.headers


@pytest.mark.contract("S12")
def test_a_page_gets_its_form_again_with_the_error_and_the_text(ada: Person, full: Budget):
    chat = ada.new_chat()
    for headers, part in (
        ({"HX-Request": "true", "Accept": "*/*"}, True),
        ({"Accept": "text/html"}, False),
    ):
        answer = ada.post(
            f"/chat/{chat}/messages/", data={"prompt": "my words", "max_tokens": 9}, headers=headers
        )
        assert answer.status_code == 429
        assert ("<html" not in answer.text) == part
        assert "0 of 200 tokens are left in your monthly budget" in answer.text
        assert "my words</textarea>" in answer.text
        assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.contract("C7")
def test_asking_again_is_refused_as_well(
    ada: Person, user: User, ask: Callable[..., httpx.Response], provider: Provider
):
    provider.reply(head(401, "application/json"), send("{}"))
    failed = ask().json()
    ada.events(failed)
    Budget.objects.create(user=user, limit_tokens=5)
    assert refusal(ada.post(f"/messages/{failed['user_message_id']}/retry/")) == EXCEEDED


@pytest.mark.contract("A1")
@pytest.mark.parametrize("streams", [False, True])
def test_a_program_with_a_token_is_told_in_the_form_of_its_api(
    ada: Person, user: User, openai: Configuration, provider: Provider, streams: bool
):
    _, secret = tokens.make(user, "ci", monthly_usd=Decimal("0.001"))
    messages = [{"role": "user", "content": "hello"}]
    answer = httpx.post(
        f"{ada.url}/v1/chat/completions",
        json={"model": "double", "messages": messages, "stream": streams},
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert refusal(answer) == EXCEEDED
    message = answer.json()["error"]["message"]
    assert "the monthly budget of the API token “ci”" in message
    assert "It resets on 1" in message
    assert not Run.objects.exists()
    assert not provider.requests


class TestTheOneRequestForm:
    OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"}

    def stream(self, ada: Person, **headers: str) -> httpx.Response:
        params = {"session_id": ada.new_chat(), "prompt": "hi", "max_tokens": "9"}
        return ada.http.get("/chat/stream/", params=params, headers={**self.OWN, **headers})

    @pytest.mark.contract("S8")
    def test_an_event_source_gets_the_error_as_an_event_and_no_run_to_come_back_to(
        self, ada: Person, full: Budget
    ):
        answer = self.stream(ada, Accept="text/event-stream")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        (event,) = parse(iter(answer.text.split("\n")))
        assert (event.type, event.data["code"]) == ("error", "BUDGET_EXCEEDED")
        assert event.data["recoverable"] is False
        assert event.data["retry_after"] == pytest.approx(seconds_until_reset(), abs=20)
        assert "It resets on" in event.data["message"]
        again = self.stream(ada, Accept="text/event-stream", **{"Last-Event-ID": event.id})
        assert again.status_code == 404
        assert not Run.objects.exists()

    def test_others_get_json(self, ada: Person, full: Budget):
        assert refusal(self.stream(ada, Accept="*/*")) == EXCEEDED


class TestTheMessageBox:
    @pytest.fixture
    def chat(self, ada: Person, openai: Configuration) -> str:
        return ada.new_chat()

    def look(self, ada: Person, chat: str, **params: Any) -> dict[str, Any]:
        answer = ada.get(f"/chat/{chat}/context/", params=params)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def page(self, ada: Person, chat: str) -> str:
        return ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text

    def test_the_estimate_counts_what_is_typed_and_how_long_the_answer_may_be(
        self, ada: Person, chat: str
    ):
        estimate = self.look(ada, chat, max_tokens=100, prompt_characters=5)["estimate"]
        assert estimate == {"tokens": TOKENS, "cost_usd": float(USD)}
        assert self.look(ada, chat)["estimate"]["tokens"] == 4 + 1024

    def test_without_a_budget_nothing_is_shown(self, ada: Person, chat: str):
        assert self.look(ada, chat)["budget"].strip() == ""
        assert "data-budget>" not in self.page(ada, chat)

    def test_the_tightest_limit_is_shown(self, ada: Person, user: User, chat: str):
        Budget.objects.create(user=user, limit_usd=5, limit_tokens=100_000)
        starts_at, _ = Period.MONTH.span(timezone.now())
        BudgetPeriod.objects.create(
            budget=Budget.objects.get(), starts_at=starts_at, used_usd=1, used_tokens=10_000
        )
        assert "$4.00 of $5.00 left in your monthly budget" in self.page(ada, chat)
        shown = self.look(ada, chat, max_tokens=100, prompt_characters=5)["budget"]
        assert "$4.00 of $5.00 left in your monthly budget" in shown
        assert "Next message: up to ≈106 tokens, $0.00021" in shown
        BudgetPeriod.objects.update(reserved_tokens=50_000)
        assert "40,000 of 100,000 tokens left" in self.look(ada, chat)["budget"]

    def test_a_limit_without_room_for_the_next_message_is_shown_before_tighter_ones(
        self, ada: Person, user: User, chat: str
    ):
        Budget.objects.create(user=user, limit_tokens=50)
        Budget.objects.create(user=user, limit_usd=10)
        starts_at, _ = Period.MONTH.span(timezone.now())
        BudgetPeriod.objects.create(
            budget=Budget.objects.get(limit_usd=10), starts_at=starts_at, used_usd=9
        )
        shown = self.look(ada, chat, max_tokens=100)["budget"]
        assert "50 of 50 tokens left" in shown
        assert "No room for the next message" in shown
        assert f"<span>It resets on {next_month():%-d %B %Y}" in shown

    def test_a_model_without_prices_has_a_cost_that_is_unknown(
        self, ada: Person, user: User, chat: str, settings: Any
    ):
        Configuration.objects.update(input_price=None)
        Budget.objects.create(user=user, limit_usd=5)
        told = self.look(ada, chat)
        assert told["estimate"]["cost_usd"] is None
        assert "Next message" in told["budget"]
        assert "cost unknown" in told["budget"]
        settings.BUDGET_UNKNOWN_PRICE = "refuse"
        assert "No room for the next message" in self.look(ada, chat)["budget"]

    def test_it_is_one_query_however_many_budgets_apply(
        self, user: User, django_assert_num_queries: Any
    ):
        group = Group.objects.create(name="staff <b>")
        group.user_set.add(user)
        for kind in Period:
            Budget.objects.create(user=user, period=kind, limit_usd=5)
            Budget.objects.create(group=group, period=kind, limit_tokens=100, limit_usd=1)
        with django_assert_num_queries(1):
            limits = budgets.of_person(user.pk, NOON)
            names = {limit.name for limit in limits}
        assert (len(limits), len(names)) == (9, 6)

    @pytest.mark.parametrize("bad", ["-1", "x", "1.5", "9999999"])
    def test_a_bad_length_is_named(self, ada: Person, chat: str, bad: str):
        answer = ada.get(f"/chat/{chat}/context/", params={"prompt_characters": bad})
        assert answer.status_code == 422
        assert set(answer.json()["errors"]) == {"prompt_characters"}


# ---- In the admin


class TestTheAdmin:
    LIST = "/admin/conversations/budget/"
    FIELDS = {"period": "month", "is_active": "on"}

    def errors(self, answer: Any) -> str:
        assert answer.status_code == 200
        return " ".join(
            message
            for messages in answer.context["adminform"].form.errors.values()
            for message in messages
        )

    def test_a_budget_is_made_changed_and_deleted(self, admin_client: Client, person: User):
        made = {**self.FIELDS, "user": person.pk, "limit_usd": "2.5", "limit_tokens": ""}
        assert admin_client.post(f"{self.LIST}add/", made).status_code == 302
        budget = Budget.objects.get()
        assert (budget.user, budget.limit_usd, budget.limit_tokens) == (
            person,
            Decimal("2.5"),
            None,
        )
        page = f"{self.LIST}{budget.pk}/change/"
        assert admin_client.post(page, {"limit_usd": "", "limit_tokens": "7"}).status_code == 302
        budget.refresh_from_db()
        assert (budget.limit_usd, budget.limit_tokens, budget.is_active) == (None, 7, False)
        admin_client.post(f"{self.LIST}{budget.pk}/delete/", {"post": "yes"})
        assert not Budget.objects.exists()

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"limit_usd": "", "limit_tokens": ""}, "Set a limit in USD, in tokens, or both."),
            ({"limit_usd": "0"}, "greater than or equal to 0.0001"),
            ({"limit_usd": "-3"}, "greater than or equal to 0.0001"),
            ({"limit_usd": "much"}, "Enter a number."),
            ({"limit_usd": "NaN"}, "Enter a number."),
            ({"limit_tokens": "0"}, "greater than or equal to 1"),
            ({"limit_tokens": "-1"}, "greater than or equal to"),
            ({"limit_usd": "1", "user": ""}, "Choose a person, a group or an API token"),
            ({"limit_usd": "1", "period": "year"}, "not one of the available choices"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, admin_client: Client, person: User, fields: dict[str, str], error: str
    ):
        answer = admin_client.post(f"{self.LIST}add/", {**self.FIELDS, "user": person.pk, **fields})
        assert error in self.errors(answer)
        assert not Budget.objects.exists()

    def test_a_budget_is_of_one_only(self, admin_client: Client, person: User):
        group = Group.objects.create(name="staff")
        both = {**self.FIELDS, "user": person.pk, "group": group.pk, "limit_usd": "1"}
        answer = admin_client.post(f"{self.LIST}add/", both)
        assert "a group or an API token, and only one" in self.errors(answer)

    def test_that_a_group_shares_its_budget_is_said(self, admin_client: Client):
        assert "share this budget" in admin_client.get(f"{self.LIST}add/").text

    def test_whose_it_is_stays(self, admin_client: Client, person: User):
        budget = Budget.objects.create(user=person, limit_tokens=5)
        other = User.objects.create_user("other")
        admin_client.post(
            f"{self.LIST}{budget.pk}/change/",
            {"user": other.pk, "period": "day", "limit_tokens": "5"},
        )
        budget.refresh_from_db()
        assert (budget.user, budget.period) == (person, "month")

    def test_the_list_shows_what_is_used_and_left_in_this_period(
        self, admin_client: Client, person: User, django_assert_max_num_queries: Any
    ):
        token = ApiToken.objects.create(user=person, name="ci", prefix="ci", sha256="ci")
        group = Group.objects.create(name="<b>staff</b>")
        now = timezone.now()
        for owner in ({"user": person}, {"group": group}, {"token": token}):
            budget = Budget.objects.create(limit_usd=2, limit_tokens=1_000, **owner)
            for moment in (now, now - timedelta(days=40)):
                BudgetPeriod.objects.create(
                    budget=budget,
                    starts_at=Period.MONTH.span(moment)[0],
                    used_usd=Decimal("0.5"),
                    used_tokens=300,
                    reserved_usd=Decimal("0.25"),
                )
        with django_assert_max_num_queries(9):
            page = admin_client.get(self.LIST)
        assert page.context["cl"].result_count == 3
        for text in ("$0.50", "$0.25", "$1.25", "$2.00", "300 tokens", "700 tokens"):
            assert page.text.count(text) >= 3, text
        assert "monthly budget of grace" in page.text
        assert "monthly budget of the API token ci" in page.text
        assert "<b>staff" not in page.text
        change = admin_client.get(f"{self.LIST}{Budget.objects.get(user=person).pk}/change/").text
        assert "$1.25" in change
        assert f"{next_month():%-d %B %Y} at 00:00 UTC" in change

    @pytest.mark.parametrize("query", ["grace", "%", "x" * 10_000])
    def test_the_list_can_be_searched(self, admin_client: Client, person: User, query: str):
        Budget.objects.create(user=person, limit_tokens=5)
        page = admin_client.get(self.LIST, {"q": query})
        assert page.status_code == 200
        assert page.context["cl"].result_count == (query == "grace")

    @pytest.mark.contract("A10")
    def test_staff_need_the_permission(self, client: Client, make_user: Callable[..., User]):
        worker = make_user("worker", is_staff=True)
        client.force_login(worker)
        assert client.get(self.LIST).status_code == 403
        worker.user_permissions.set(Permission.objects.filter(codename="view_budget"))
        assert client.get(self.LIST).status_code == 200
        assert client.get(f"{self.LIST}add/").status_code == 403
