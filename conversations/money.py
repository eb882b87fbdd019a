"""Money for people."""

from decimal import Decimal


def dollars(amount: Decimal) -> str:
    """With as many digits as it needs: "$0.00047", "$1.28", "$0"."""
    if not amount:
        return "$0"
    if amount >= Decimal("0.1"):
        return f"${amount:,.2f}"
    digits = -amount.adjusted() + 1  # two figures that count
    return f"${amount:.{digits}f}"
