"""No page waits for a provider: with all of them silent, the rest is as quick as ever (P6)."""

import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from conversations.models import Run
from providers.models import Configuration
from tests.people import Person

SOON = 5.0  # s: far less than any time limit for a provider, far more than a page takes


@pytest.fixture
def black_hole(transactional_db: None) -> Iterator[Configuration]:
    """A provider whose address takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Configuration.objects.create(
            name="Silent",
            slug="silent",
            kind="local",
            model="m",
            base_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            is_default=True,
        )


@pytest.mark.contract("P6")
def test_with_all_providers_silent_every_page_is_answered(
    make_person: Callable[..., Person], black_hole: Configuration
):
    ada = make_person("ada", is_staff=True, is_superuser=True)
    runs = [ada.ask(ada.new_chat(), f"hello {number}") for number in range(4)]
    chat = Run.objects.earliest("started_at").session_id
    pages = [
        "/",
        f"/chat/{chat}/",
        "/chat/sidebar/",
        f"/chat/{chat}/context/",
        f"/monitor/runs/{runs[0]['run_id']}/",
        "/help/",
        "/healthz",
        "/admin/",
        "/admin/providers/configuration/",
        f"/admin/providers/configuration/{black_hole.pk}/change/",
        "/admin/providers/configuration/add/",
        "/admin/conversations/usagelog/",
    ]
    for path in pages:
        asked_at = monotonic()
        answer = ada.get(path, headers={"Accept": "text/html"}, follow_redirects=True)
        assert answer.status_code == 200, (path, answer.status_code)
        assert monotonic() - asked_at < SOON, path
    assert Run.objects.running().count() == len(runs)
    for run in runs:
        asked_at = monotonic()
        assert ada.stop(run)["stopped"] is True
        assert monotonic() - asked_at < SOON
