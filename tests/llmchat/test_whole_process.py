"""llmchat as people run it, in a process of its own. What faults do to it is in tests/faults."""

import pytest

from tests.people import Person, text_of
from tests.servers.provider import Provider, openai_answer
from tests.servers.sites import ADMIN, PASSWORD, Server, Site, daphne, uvicorn


@pytest.mark.parametrize("server", [daphne, uvicorn])
def test_a_question_is_answered(sqlite_site: Site, provider: Provider, server: Server):
    provider.reply(*openai_answer("Hello", " there", pause=0.02))
    with server(sqlite_site) as (_, url), Person(url, ADMIN, PASSWORD) as admin:
        events = admin.events(admin.ask(admin.new_chat(), "hi"))
        assert text_of(events) == "Hello there"
        assert events[-1].type == "done"
        assert admin.get("/healthz").json()["status"] == "ok"
