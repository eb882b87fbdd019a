"""Ends the runs whose process is gone, with all the text that was stored (G2, D2).

Only an expired lease makes a run lost; no process assumes that it is alone.
"""

from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from conversations import events, runs
from conversations.errors import Failure, Interrupted
from conversations.events import RunEvent
from conversations.journal import stored_events
from conversations.models import EventBatch, Run
from conversations.outcomes import Metrics, Outcome, joined_tool_calls
from providers.events import Usage
from providers.pricing import Prices, cost_usd
from providers.tokens import estimate

OPENING = 4  # events at the most that come before those of the provider


def recover(alive: Collection[UUID]) -> dict[UUID, RunEvent]:
    """Ends the runs whose lease has run out, as INTERRUPTED.

    `alive` are the runs that the caller drives itself, whatever their lease says. Gives the end
    events of the runs that it ended.
    """
    expired = (
        Run.objects.running()
        .filter(lease_until__lt=timezone.now())
        .exclude(pk__in=alive)
        .values_list("pk", flat=True)
    )
    ends = {run_id: _recover(run_id) for run_id in expired}
    return {run_id: end for run_id, end in ends.items() if end}


def _recover(run_id: UUID) -> RunEvent | None:
    with transaction.atomic():
        # Looked at again under the lock: another process may have been faster, or the worker
        # may have come back and renewed its lease.
        run = (
            Run.objects.select_for_update(of=("self",))
            .select_related("configuration")
            .running()
            .filter(pk=run_id, lease_until__lt=timezone.now())
            .first()
        )
        if run is None:
            return None
        stored = stored_events(run_id)
        number = stored[-1].number + 1
        end = runs.finish(run_id, _interrupted(run, stored), number)
        EventBatch.objects.create(run=run, first=number, last=number, lines=end.data)
    return end


def _interrupted(run: Run, stored: list[RunEvent]) -> Outcome:
    """What is left of a run whose worker is gone: its stored events tell."""
    text = events.joined_text(stored, "chunk")
    reasoning = events.joined_text(stored, "reasoning")
    earlier = [event for event in stored[:OPENING] if event.fields.get("earlier")]
    new_tokens = (
        estimate(text)
        + estimate(reasoning)
        - estimate(events.joined_text(earlier, "chunk"))
        - estimate(events.joined_text(earlier, "reasoning"))
    )
    prices = run.configuration.prices if run.configuration else Prices()
    usage = Usage(prompt_tokens=run.input_tokens, completion_tokens=new_tokens)
    cost, source = cost_usd(usage, prices, is_estimated=True)
    return Outcome(
        status=Run.Status.INTERRUPTED,
        text=text,
        reasoning=reasoning,
        reasoning_seconds=None,
        tool_calls=joined_tool_calls(event.fields for event in stored if event.type == "tool_call"),
        finish_reason=None,
        provider_finish_reason=None,
        failure=Failure.of(Interrupted()),
        metrics=Metrics(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=None,
            cached_tokens=None,
            cost_usd=cost,
            cost_source=source,
            estimated=True,
            processing_time=(timezone.now() - run.started_at).total_seconds(),
            time_to_first_chunk=None,
            tokens_per_second=None,
        ),
        prices=prices,
    )
