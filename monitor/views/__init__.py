"""The monitor's pages: parse, authorise, ask one query, answer."""

from monitor.views.activity import activity_export, activity_list
from monitor.views.inspector import (
    run,
    run_body,
    run_difference,
    run_received,
    run_record,
    run_wire,
)
from monitor.views.live import live_events, monitor_live
from monitor.views.metrics import metrics
from monitor.views.overview import overview_page
from monitor.views.replays import replay_column, run_replay_form, run_replays
from monitor.views.statistics import statistics_page
from monitor.views.stream_test import delivery_test, stream_test

__all__ = [
    "activity_export",
    "activity_list",
    "delivery_test",
    "live_events",
    "metrics",
    "monitor_live",
    "overview_page",
    "replay_column",
    "run",
    "run_body",
    "run_difference",
    "run_received",
    "run_record",
    "run_replay_form",
    "run_replays",
    "run_wire",
    "statistics_page",
    "stream_test",
]
