"""Every run has one usage row that says all that is needed to check its cost later (D1, P7)."""

import json
from decimal import Decimal
from typing import Any

import pytest

from conversations.models import Run, UsageLog
from providers.models import Configuration
from tests.people import Person
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    send,
)

pytestmark = pytest.mark.contract("P7")


def prices(row: UsageLog) -> list[Any]:
    return [row.input_price, row.cached_input_price, row.output_price]


def usage_after(person: Person, prompt: str = "hi") -> UsageLog:
    run = person.ask(person.new_chat(), prompt)
    person.events(run)
    return UsageLog.objects.get(run=run["run_id"])


def test_prices_are_frozen_on_the_row_and_later_ones_do_not_change_it(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("fine"), model="double-1")
    before = usage_after(ada)
    Configuration.objects.update(input_price=100, output_price=200, cached_input_price=50)
    after = usage_after(ada)
    before.refresh_from_db()
    assert prices(before) == [1, None, 2]
    assert prices(after) == [100, 50, 200]
    for row in (before, after):
        tokens_in, tokens_out = row.prompt_tokens or 0, row.completion_tokens or 0
        price_in, _, price_out = prices(row)
        expected = (tokens_in * price_in + tokens_out * price_out) / 1_000_000
        assert row.cost_usd == Decimal(expected)
        assert row.cost_source == "computed"


@pytest.mark.parametrize("fields", [{"input_price": None}, {"output_price": None}])
def test_an_unknown_price_stays_unknown_on_the_row(
    fields: dict[str, Any], ada: Person, openai: Configuration, provider: Provider
):
    Configuration.objects.update(**fields)
    provider.reply(*openai_answer("fine"))
    row = usage_after(ada)
    assert (row.cost_usd, row.cost_source) == (None, "unknown")
    assert prices(row) == ([None, None, 2] if "input_price" in fields else [1, None, None])


@pytest.mark.contract("D1")
@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_a_run_that_fails_or_is_stopped_has_its_row_with_the_prices_too(
    end: str, ada: Person, openai: Configuration, provider: Provider
):
    if end == "failed":
        provider.reply(*json_answer({"error": {"message": "no"}}, 400))
    else:
        provider.reply(head(), hang())
    run = ada.ask(ada.new_chat(), "hi")
    if end == "stopped":
        provider.wait_for_request(1)
        ada.stop(run)
    ada.events(run)
    row = UsageLog.objects.get(run=run["run_id"])
    assert prices(row) == [1, None, 2]
    assert row.status == Run.objects.get(pk=run["run_id"]).status != Run.Status.DONE
    assert row.origin == "chat"


@pytest.mark.contract("R7")
@pytest.mark.parametrize("count", [10**9, 2**31, 10**12, 10**30])
def test_a_count_that_cannot_be_is_not_taken_and_the_run_ends_all_the_same(
    count: int, ada: Person, openai: Configuration, provider: Provider
):
    usage = {"prompt_tokens": count, "completion_tokens": count, "cost": count}
    chunk = {"choices": [], "usage": usage}
    provider.reply(
        head(),
        send(openai_chunk("fine", finish="stop")),
        send(f"data: {json.dumps(chunk)}\n\n"),
        send(OPENAI_DONE),
    )
    row = usage_after(ada)
    assert (row.status, row.is_estimated, row.cost_source) == ("done", True, "estimated")
    assert row.completion_tokens == 1
