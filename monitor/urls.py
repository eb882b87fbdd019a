from django.urls import path

from monitor import views

urlpatterns = [
    path("monitor/runs/<uuid:run_id>/", views.run, name="run_inspector"),
    path("monitor/runs/<uuid:run_id>/body/", views.run_body, name="run_body"),
]
