"""What an answer cost, in Decimal USD: never through float, and never 0 for what is not known."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from providers.events import Usage

_MILLION: Final = Decimal(1_000_000)


class CostSource(StrEnum):
    """How a cost was found (contract S7)."""

    REPORTED = "reported"  # the provider's own figure
    COMPUTED = "computed"  # its token counts times the configuration's prices
    ESTIMATED = "estimated"  # our token counts times the prices
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens. None is unknown, 0 is free.

    Without a price of their own cached tokens cost what others do.
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    output: Decimal | None = None


def cost_usd(
    usage: Usage, prices: Prices, *, is_estimated: bool = False
) -> tuple[Decimal | None, CostSource]:
    """The cost of an answer in USD, unrounded, and where the figure comes from.

    `is_estimated` says that the counts in `usage` are ours. None and UNKNOWN where a count or a
    price that matters is missing: a price of 0 needs no count, a count of 0 no price.
    """
    if usage.cost_usd is not None:
        return usage.cost_usd, CostSource.REPORTED
    cached, fresh = usage.cached_tokens or 0, usage.prompt_tokens
    if fresh is not None:
        # Some report more cached tokens than prompt tokens (Azure: 161 of 7).
        fresh = max(fresh - cached, 0)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    parts = [
        _part(fresh, prices.input),
        _part(cached, cached_price),
        _part(usage.completion_tokens, prices.output),
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None, CostSource.UNKNOWN
    source = CostSource.ESTIMATED if is_estimated else CostSource.COMPUTED
    return sum(known, Decimal(0)), source


def _part(tokens: int | None, price: Decimal | None) -> Decimal | None:
    if tokens == 0 or price == 0:
        return Decimal(0)
    if tokens is None or price is None:
        return None
    return tokens * price / _MILLION
