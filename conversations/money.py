"""Money for people."""

from decimal import ROUND_HALF_EVEN, Decimal


def dollars(amount: Decimal, rounding: str = ROUND_HALF_EVEN) -> str:
    """With as many digits as it needs: "$0.00047", "$1.28", "$0"."""
    if not amount:
        return "$0"
    digits = 2 if amount >= Decimal("0.1") else -amount.adjusted() + 1  # two figures that count
    return f"${amount.quantize(Decimal(1).scaleb(-digits), rounding):,f}"
