"""The addresses of the whole site (contract §8)."""

from django.contrib import admin
from django.contrib.auth import views as accounts
from django.urls import include, path

from conversations.views.answers import page
from llmchat import pages

urlpatterns = [
    path("", include("conversations.urls")),
    path("", include("monitor.urls")),
    path(
        "accounts/login/",
        page(accounts.LoginView.as_view(redirect_authenticated_user=True)),
        name="login",
    ),
    path("accounts/logout/", accounts.LogoutView.as_view(), name="logout"),
    path("help/", pages.help_page, name="help"),
    path("help/<slug:name>/", pages.help_page, name="help_page"),
    path("api/docs", pages.api_docs, name="api_docs"),
    path("api/openapi.json", pages.openapi, name="openapi"),
    path("healthz", pages.health, name="health"),
    path("admin/", admin.site.urls),
]
handler400 = "llmchat.pages.bad_request"
handler403 = "llmchat.pages.forbidden"
handler404 = "llmchat.pages.not_found"
handler500 = "llmchat.pages.server_error"
