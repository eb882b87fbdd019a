"""Figures as the monitor's pages write them. None is what is not known."""

from decimal import Decimal

from django import template

from conversations.money import dollars

register = template.Library()

NONE = "–"  # noqa: RUF001 - a dash in a table, where there is no figure


@register.filter
def count(value: int | None) -> str:
    """1,234"""
    return NONE if value is None else f"{value:,}"


@register.filter
def money(value: Decimal | None, source: str = "") -> str:
    """As many digits as it needs: $1.28, $0.00047, $0; with ≈ for an estimate."""
    if value is None:
        return "unknown"
    return f"{'≈' if source == 'estimated' and value else ''}{dollars(value)}"


@register.filter
def seconds(value: float | None) -> str:
    """0.42 s, 12.3 s, 184 s"""
    return NONE if value is None else f"{_short(value)} s"


@register.filter
def short(value: float | None) -> str:
    """Three digits, or all before the point."""
    return NONE if value is None else _short(value)


def _short(value: float) -> str:
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
