"""The log: lines for people or for programs, what they are about, and no secret in any of them."""

import json
import logging
from io import StringIO
from uuid import uuid4

import pytest
from django.test import RequestFactory

from conversations import log_context
from conversations.background import spawn
from conversations.log_context import Asking
from conversations.models import Run
from llmchat.logs import JSONLines, TextLines
from providers.fields import EncryptedText
from providers.models import Configuration
from tests.people import Person
from tests.servers.app import AppServer
from tests.servers.provider import Provider, json_answer, openai_answer
from tests.servers.sites import ADMIN, PASSWORD, Site, uvicorn

PLANTED = 'planted 5d1f7c "quoted" key'  # looks like no key, and is written differently in JSON


@pytest.fixture
def lines() -> tuple[logging.Logger, StringIO]:
    """A logger of its own that writes JSON."""
    output = StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(JSONLines())
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    return logger, output


def told(output: StringIO) -> dict:
    (line,) = output.getvalue().splitlines()
    found: dict = json.loads(line)
    return found


@pytest.mark.contract("M6")
def test_a_record_is_one_json_object_a_line(lines):
    logger, output = lines
    logger.warning("two\nlines of %s\u2028", "text")
    found = told(output)
    assert found.keys() == {"time", "level", "logger", "message", "process"}
    assert found["message"] == "two\nlines of text\u2028"
    assert (found["level"], found["logger"]) == ("WARNING", "test")
    assert found["time"].endswith("+00:00")


@pytest.mark.contract("G9")
@pytest.mark.parametrize("formatter", [JSONLines, TextLines])
def test_keys_are_masked_in_messages_arguments_and_tracebacks(formatter):
    EncryptedText.of(PLANTED)  # the process has had it in its hands
    output = StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter())
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    try:
        raise ValueError(f"refused {PLANTED}")
    except ValueError:
        logger.exception("with %s and Bearer abcdef-123456 and sk-proj-0123456789", PLANTED)
    logger.warning("stack", stack_info=True)
    text = output.getvalue()
    assert "planted" not in text
    assert "5d1f7c" not in text
    assert "abcdef" not in text
    assert "0123456789" not in text
    assert text.count("[hidden]") == 4
    assert "ValueError: refused [hidden]" in text


def test_a_word_that_stands_for_no_key_is_not_masked(lines):
    logger, output = lines
    EncryptedText.of("ollama")
    logger.info("ollama answers")
    assert told(output)["message"] == "ollama answers"


@pytest.mark.contract("M6")
def test_a_record_says_which_request_and_person_it_is_about(lines, django_user_model):
    logger, output = lines
    request = RequestFactory().get("/")
    vars(request)["_cached_user"] = django_user_model(pk=7)
    former = log_context.asking()
    log_context.set_asking(Asking(request, "abc", "127.0.0.1"))
    try:
        logger.info("hello")
    finally:
        log_context.set_asking(former)
    found = told(output)
    assert (found["request_id"], found["user_id"]) == ("abc", 7)


@pytest.mark.contract("M6")
async def test_a_task_of_a_run_says_so_and_others_do_not(lines):
    logger, output = lines
    run_id = uuid4()

    async def work():
        log_context.set_run(run_id)
        logger.info("hello")

    await spawn(work(), "work")
    assert told(output)["run_id"] == str(run_id)
    assert "run_id" not in log_context.fields()


@pytest.mark.contract("M6")
def test_each_answer_has_the_id_of_its_request(app: AppServer, ada: Person, settings):
    ids = {
        ada.get("/help/", headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] for _ in "ab"
    }
    assert len(ids) == 2
    assert "mine" not in ids
    settings.TRUSTED_PROXIES = 1
    given = ada.get("/help/", headers={"X-Request-ID": "of-the-proxy.1"})
    assert given.headers["X-Request-ID"] == "of-the-proxy.1"
    bad = ada.get("/help/", headers={"X-Request-ID": "a b"})
    assert bad.headers["X-Request-ID"] not in ("a b", "")


@pytest.mark.contract("M6")
def test_a_failing_run_is_logged_under_its_id(
    ada: Person, openai: Configuration, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    output = StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(JSONLines())
    logger = logging.getLogger("conversations.engine")
    logger.addHandler(handler)
    monkeypatch.setattr("conversations.engine._LiveRun._take", lambda *_: 1 / 0, raising=True)
    provider.reply(*openai_answer("hello"))
    try:
        ada.events(ada.ask(ada.new_chat(), "hi"))
    finally:
        logger.removeHandler(handler)
    found = told(output)
    assert found["run_id"] == str(Run.objects.get().pk)
    assert found["exception"].rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.contract("A18")
def test_a_whole_process_logs_json_at_debug_without_the_key(sqlite_site: Site, provider: Provider):
    key = "sk-0123456789"  # of the site's configuration
    provider.reply(*openai_answer("Hello"))
    provider.reply(*json_answer({"error": {"message": f"Incorrect API key: {key}"}}, status=401))
    site = {**sqlite_site, "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}
    with uvicorn(site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        for prompt in ("one", "two"):
            run = admin.ask(admin.new_chat(), prompt)
            admin.events(run)
        admin.get("/nothing/")
        process.send_signal(15)
        process.end()
    assert provider.requests[0].headers["authorization"] == f"Bearer {key}"
    records = [json.loads(line) for line in process.said if line.startswith("{")]
    plain = [line for line in process.said if not line.startswith("{")]
    assert all("INFO: " in line for line in plain), plain  # uvicorn's, before the settings are read
    assert {record["level"] for record in records} >= {"INFO", "WARNING"}
    assert any("/nothing/" in record["message"] and "request_id" in record for record in records)
    assert not [line for line in process.said if key in line or "0123456789" in line]
