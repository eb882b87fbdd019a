"""Prices and token estimates."""

from decimal import Decimal

import pytest

from providers.events import Usage
from providers.pricing import CostSource, Prices, cost_usd
from providers.tokens import MESSAGE_TOKENS, TokenCounter, estimate, estimate_messages

PRICES = Prices(Decimal("2.50"), Decimal("0.25"), Decimal(10))
SAME = Prices(Decimal(1), None, Decimal(1))  # cached tokens have no price of their own


@pytest.mark.parametrize(
    ("usage", "prices", "cost", "source"),
    [
        (Usage(1000, 100), PRICES, "0.0035", "computed"),
        (Usage(1000, 100, cached_tokens=800), PRICES, "0.0017", "computed"),
        (Usage(7, 0, cached_tokens=161), PRICES, "0.00004025", "computed"),
        (Usage(1000, 100, cached_tokens=800), SAME, "0.0011", "computed"),
        (Usage(1, 1, cost_usd=Decimal("0.00007159")), PRICES, "0.00007159", "reported"),
        (Usage(1, 1, cost_usd=Decimal(0)), PRICES, "0", "reported"),
        (Usage(1000, 100), Prices(), None, "unknown"),
        (Usage(1000, 100), Prices(Decimal(1)), None, "unknown"),
        (Usage(1000, 0), Prices(Decimal(1)), "0.001", "computed"),
        (Usage(None, 100), PRICES, None, "unknown"),
        (Usage(), PRICES, None, "unknown"),
        (Usage(), Prices(Decimal(0), None, Decimal(0)), "0", "computed"),
        (Usage(3, 3), Prices(Decimal("0.1"), None, Decimal("0.2")), "9E-7", "computed"),
    ],
)  # fmt: skip
def test_a_cost_is_exact_or_unknown(usage, prices, cost, source):
    found, found_source = cost_usd(usage, prices)
    assert found == (None if cost is None else Decimal(cost))
    assert found is None or isinstance(found, Decimal)
    assert found_source == source


def test_a_cost_from_estimates_says_so():
    assert cost_usd(Usage(1, 1), PRICES, is_estimated=True)[1] is CostSource.ESTIMATED
    assert cost_usd(Usage(1, 1), Prices(), is_estimated=True)[1] is CostSource.UNKNOWN


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("four", 1),
        ("x" * 400, 100),
        ("Größe über alles!", 5),
        ("日本語", 3),
        ("中文 and English", 5),
        ("한국어", 3),
        ("привет!!", 4),
        ("😀", 1),
    ],
)
def test_an_estimate_follows_the_script(text, tokens):
    assert estimate(text) == tokens


def test_pieces_are_counted_like_the_whole():
    text = "Größe 日本語 привет 😀 and plain English. " * 50
    counter = TokenCounter()
    for character in text:
        counter.add(character)
    assert counter.tokens == estimate(text)
    assert counter.add("") == counter.tokens


def test_messages_cost_a_little_more_than_their_text():
    assert estimate_messages(["four", "four"]) == 2 + 2 * MESSAGE_TOKENS
    assert estimate_messages([]) == 0
