"""What the monitor's pages are asked for: filters and periods, from the query string."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone

from conversations.forms import PlainForm, no_broken_text
from conversations.models import Origin, Run
from monitor.activity import Filters, Position
from monitor.statistics import Period

USERNAME_CHARACTERS = 150
CODE_CHARACTERS = 40
SLUG_CHARACTERS = 100
FIRST_YEAR, LAST_YEAR = 1990, 2200  # beyond them, arithmetic on moments would overflow
PERIODS = (7, 30, 90)  # days
LONGEST_PERIOD = 366  # days

ORIGINS = {
    Origin.CHAT: "Chat",
    Origin.API: "API",
    Origin.COMMAND: "Command line",
    Origin.REPLAY: "Replay",
    Origin.STREAM_TEST: "Stream test",
    Origin.CONNECTION_TEST: "Connection test",
}


def _text(label: str, most: int) -> forms.CharField:
    return forms.CharField(
        label=label, required=False, max_length=most, validators=[no_broken_text]
    )


def _choice(label: str, choices: list[tuple[str, str]]) -> forms.ChoiceField:
    return forms.ChoiceField(
        label=label,
        required=False,
        choices=[("", "Any"), *choices],
        error_messages={"invalid_choice": "Choose one of the list."},
    )


class MomentField(forms.DateTimeField):
    """A moment in the server's time zone, or with a zone of its own; a date is its midnight."""

    default_error_messages = {"invalid": "Give a date and a time, such as 2026-11-21 18:00."}

    def to_python(self, value: Any) -> datetime | None:
        moment: datetime | None = super().to_python(value)
        if moment is not None and not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise ValidationError(f"Give a year from {FIRST_YEAR} to {LAST_YEAR}.")
        return moment


class PositionField(forms.CharField):
    """The place of a run in the list, as a `Position` writes itself."""

    def clean(self, value: Any) -> Position | None:
        text = super().clean(value)
        try:
            return Position.parse(text) if text else None
        except ValueError:
            raise ValidationError("This is no page of the list.") from None


class FilterForm(PlainForm):
    """Which runs are asked for. Blank fields mean any; texts are matched as they are."""

    user = _text("User", USERNAME_CHARACTERS)
    configuration = _text("Configuration", SLUG_CHARACTERS)
    status = _choice("Status", [(one.value, one.label) for one in Run.Status])
    origin = _choice("Made for", [(one.value, label) for one, label in ORIGINS.items()])
    code = _text("Error code", CODE_CHARACTERS)
    session = forms.UUIDField(
        label="Session",
        required=False,
        error_messages={"invalid": "Give the id of a session, as its address has it."},
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["from"] = MomentField(label="From", required=False)  # no name for an attribute
        self.fields["to"] = MomentField(label="Before", required=False)
        self.fields["before"] = PositionField(label="Page", required=False)
        self.fields["after"] = PositionField(label="Page", required=False)

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        if data.get("from") and data.get("to") and data["from"] >= data["to"]:
            self.add_error("to", "This is not after the beginning of the period.")
        return data

    @property
    def filters(self) -> Filters:
        """The checked values. Only for a valid form."""
        data = self.cleaned_data
        return Filters(
            user=data["user"],
            configuration=data["configuration"],
            status=data["status"],
            origin=data["origin"],
            code=data["code"],
            session=data["session"],
            since=data["from"],
            until=data["to"],
        )

    @property
    def position(self) -> tuple[Position | None, Position | None]:
        """The rows before and after which the page is. Only for a valid form."""
        return self.cleaned_data["before"], self.cleaned_data["after"]

    @property
    def told(self) -> dict[str, str]:
        """The fields that were given, as they were, but for the page."""
        names = [name for name in self.fields if name not in ("before", "after")]
        return {name: str(self.data[name]) for name in names if self.data.get(name)}


class DayField(forms.DateField):
    default_error_messages = {"invalid": "Give a date, such as 2026-11-21."}

    def to_python(self, value: Any) -> date | None:
        day: date | None = super().to_python(value)
        if day is not None and not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise ValidationError(f"Give a year from {FIRST_YEAR} to {LAST_YEAR}.")
        return day


class PeriodForm(PlainForm):
    """Of which runs there are to be statistics: of the last `days`, or `from` a day `to` a day
    (both are part of it, in UTC). Without any of them, of the last 30 days."""

    days = forms.TypedChoiceField(
        required=False,
        coerce=int,
        choices=[(str(days), f"{days} days") for days in PERIODS],
        error_messages={"invalid_choice": "Choose 7, 30 or 90 days, or give two dates."},
    )
    user = _text("User", USERNAME_CHARACTERS)
    configuration = _text("Configuration", SLUG_CHARACTERS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["from"] = DayField(label="From", required=False)
        self.fields["to"] = DayField(label="To", required=False)

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        first, last = data.get("from"), data.get("to")
        if first and last and last < first:
            self.add_error("to", "This is before the first day.")
        elif first and ((last or timezone.now().date()) - first).days >= LONGEST_PERIOD:
            self.add_error("from", f"Choose a period of at most {LONGEST_PERIOD:,} days.")
        return data

    @property
    def period(self) -> Period:
        """The checked period. Only for a valid form."""
        today = datetime.now(UTC).date()
        first, last = self.cleaned_data["from"], self.cleaned_data["to"]
        if first or last:
            last = last or max(today, first)
            return Period(first or last - timedelta(days=PERIODS[1] - 1), last)
        return Period.last_days(self.chosen_days or PERIODS[1], today)

    @property
    def chosen_days(self) -> int | None:
        """The number of days, None where the period has dates. Only for a valid form."""
        if self.cleaned_data["from"] or self.cleaned_data["to"]:
            return None
        return self.cleaned_data["days"] or PERIODS[1]
