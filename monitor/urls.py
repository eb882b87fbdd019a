from django.urls import path

from monitor import views

urlpatterns = [
    path("monitor/", views.overview_page, name="monitor"),
    path("monitor/activity/", views.activity_list, name="activity"),
    path(
        "monitor/activity/export.csv", views.activity_export, {"kind": "csv"}, name="activity_csv"
    ),
    path(
        "monitor/activity/export.json",
        views.activity_export,
        {"kind": "json"},
        name="activity_json",
    ),
    path("monitor/statistics/", views.statistics_page, name="statistics"),
    path("monitor/live/", views.monitor_live, name="monitor_live"),
    path("monitor/live/events/", views.live_events, name="live_events"),
    path("monitor/test/", views.stream_test, name="stream_test"),
    path("monitor/test/delivery/", views.delivery_test, name="delivery_test"),
    path("metrics", views.metrics, name="metrics"),
    path("monitor/runs/<uuid:run_id>/", views.run, name="run_inspector"),
    path("monitor/runs/<uuid:run_id>/body/", views.run_body, name="run_body"),
    path("monitor/runs/<uuid:run_id>/wire/", views.run_wire, name="run_wire"),
    path("monitor/runs/<uuid:run_id>/difference/", views.run_difference, name="run_difference"),
    path("monitor/runs/<uuid:run_id>/record.json", views.run_record, name="run_record"),
    path("monitor/runs/<uuid:run_id>/received.ndjson", views.run_received, name="run_received"),
    path("monitor/runs/<uuid:run_id>/replay/", views.run_replay_form, name="run_replay_form"),
    path("monitor/runs/<uuid:run_id>/replays/", views.run_replays, name="run_replays"),
    path("monitor/runs/<uuid:run_id>/column/", views.replay_column, name="replay_column"),
]
