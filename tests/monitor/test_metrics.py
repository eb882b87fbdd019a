"""`/metrics`: who may read it, that Prometheus can read it, and that it counts what happened."""

import re
from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest
from django.db import transaction
from django.utils import timezone

from conversations import metering
from conversations.metering import MOST_LABELS, Meter, meter
from conversations.models import UsageLog
from monitor.metrics import exposition, gauges
from providers.models import Configuration
from tests.people import Person
from tests.servers.app import AppServer
from tests.servers.processes import ROOT
from tests.servers.provider import Provider, hang, head, json_answer, openai_answer

DOCS = (ROOT / "docs" / "operations.md").read_text()
TOKEN = "metrics-token-0123456789-0123456789"
# prometheus.io/docs/instrumenting/exposition_formats: what a line may be.
HEAD = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)")
LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """All samples, by name and labels. Strict: fails on any line that is none of the format's."""
    samples: Samples = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if found := HEAD.fullmatch(line):
            what, name, rest = found.groups()
            if what == "TYPE":
                assert name not in kinds, f"{name} is there twice"
                kinds[name] = rest
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        name, labels, value = found.groups()
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in kinds or kinds.get(base) == "histogram", name
        pairs = re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', labels or "")
        key = (name, frozenset(pairs))
        assert key not in samples, key
        samples[key] = float(value)
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(
        number
        for (known, pairs), number in samples.items()
        if known == name and pairs >= set(labels.items())
    )


@pytest.fixture
def empty_meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """This process counts from 0."""
    for name, fresh in vars(Meter()).items():
        monkeypatch.setattr(meter, name, fresh)
    return meter


@pytest.fixture
def scrape(app: AppServer, settings, empty_meter: Meter) -> Callable[[], Samples]:
    settings.METRICS_TOKEN = TOKEN

    def read() -> Samples:
        answer = ask(app, f"Bearer {TOKEN}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(answer.text)

    return read


def ask(app: AppServer, authorization: str = "") -> httpx.Response:
    headers = {b"Authorization": authorization.encode()} if authorization else {}
    return httpx.get(f"{app.url}/metrics", headers=headers, timeout=10, trust_env=False)


# ---- Who may read it


@pytest.mark.contract("M6")
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer é"],
)
def test_strangers_and_wrong_tokens_are_refused(app: AppServer, settings, authorization: str):
    settings.METRICS_TOKEN = TOKEN
    answer = ask(app, authorization)
    assert answer.status_code == 401
    assert "llmchat_" not in answer.text


@pytest.mark.contract("M6")
def test_no_token_opens_where_none_is_set(app: AppServer, settings):
    settings.METRICS_TOKEN = ""
    assert [ask(app, given).status_code for given in ("Bearer", "Bearer x")] == [401] * 2


@pytest.mark.contract("M6")
def test_staff_may_read_it_and_other_people_may_not(make_person: Callable[..., Person]):
    assert make_person("ada").get("/metrics").status_code == 404
    assert make_person("grace", is_staff=True).get("/metrics").status_code == 200


# ---- What it counts


@pytest.mark.contract("M6")
def test_a_run_is_counted_with_its_tokens_cost_and_times(
    ada: Person, openai: Configuration, provider: Provider, scrape: Callable[[], Samples]
):
    provider.reply(*openai_answer("Hello", " there", pause=0.02))
    ada.events(ada.ask(ada.new_chat(), "hi"))
    samples = scrape()
    who = {"provider": "openai", "model": "double-1", "configuration": "double", "origin": "chat"}
    assert value(samples, "llmchat_runs_total", status="done", **who) == 1
    assert value(samples, "llmchat_runs_total") == 1
    row = UsageLog.objects.get()
    assert value(samples, "llmchat_tokens_total", type="prompt", **who) == row.prompt_tokens
    assert value(samples, "llmchat_tokens_total", type="completion") == row.completion_tokens
    assert row.cost_usd is not None
    cost = value(samples, "llmchat_cost_usd_total", source=row.cost_source, **who)
    assert cost == pytest.approx(float(row.cost_usd))
    told = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "openai",
        "gen_ai_request_model": "double-1",
    }
    usage = "gen_ai_client_token_usage"
    assert value(samples, f"{usage}_sum", gen_ai_token_type="output", **told) == (
        row.completion_tokens
    )
    for name, measured in (
        ("gen_ai_client_operation_duration_seconds", row.processing_time),
        ("gen_ai_client_operation_time_to_first_chunk_seconds", row.time_to_first_chunk),
    ):
        assert value(samples, f"{name}_count", **told) == 1
        assert value(samples, f"{name}_sum", **told) == pytest.approx(measured)
        assert value(samples, f"{name}_bucket", le="+Inf", **told) == 1
    assert value(samples, "llmchat_mismatches_total") == 0
    assert ("llmchat_mismatches_total", frozenset()) in samples
    assert "ada" not in exposition()


@pytest.mark.contract("M6")
def test_retries_and_errors_are_counted_by_code(
    ada: Person, openai: Configuration, provider: Provider, scrape: Callable[[], Samples], settings
):
    settings.MAX_ATTEMPTS = 2
    provider.reply(*json_answer({"error": {"message": "slow down"}}, status=429))
    provider.reply(*json_answer({"error": {"message": "slow down"}}, status=429))
    ada.events(ada.ask(ada.new_chat(), "hi"))
    samples = scrape()
    about = {"provider": "openai", "model": "double-1", "code": "RATE_LIMIT_EXCEEDED"}
    assert value(samples, "llmchat_retries_total", **about) == 1
    assert value(samples, "llmchat_provider_errors_total", **about) == 2
    assert value(samples, "llmchat_runs_total", status="error", code=about["code"]) == 1
    assert value(
        samples, "gen_ai_client_operation_duration_seconds_count", error_type=about["code"]
    ) == 1  # fmt: skip


@pytest.mark.contract("M6")
def test_what_runs_and_streams_at_the_moment_is_shown(
    ada: Person, openai: Configuration, provider: Provider, scrape: Callable[[], Samples]
):
    provider.reply(head(), hang())
    run = ada.ask(ada.new_chat(), "hi")
    with ada.follow(run["events_url"]) as events:
        next(events)
        samples = scrape()
    assert value(samples, "llmchat_running_runs") == 1
    assert value(samples, "llmchat_open_streams") == 1
    assert value(samples, "llmchat_journal_lag_seconds") < 5
    ada.stop(run)
    assert value(scrape(), "llmchat_running_runs") == 0


# ---- How it counts


def usage_row(**fields) -> UsageLog:
    now = timezone.now()
    return UsageLog(
        **{
            "configuration": "c",
            "provider": "p",
            "model": "m",
            "origin": "chat",
            "status": "done",
            "started_at": now,
            "ended_at": now,
            **fields,
        }
    )


@pytest.mark.django_db(transaction=True)
def test_a_row_that_is_rolled_back_does_not_count(empty_meter: Meter):
    with transaction.atomic():
        usage_row(run_id=uuid4()).save()
        transaction.set_rollback(True)
    assert empty_meter.runs.values == {}
    with transaction.atomic():
        usage_row(run_id=uuid4()).save()
        assert empty_meter.runs.values == {}
    assert sum(empty_meter.runs.values.values()) == 1


def test_buckets_add_up_and_a_boundary_belongs_to_its_bucket():
    counted = Meter()
    for seconds in (0.01, 0.011, 100.0):
        counted.count_usage(usage_row(processing_time=seconds))
    samples = parse(exposition(counted=counted))
    name = "gen_ai_client_operation_duration_seconds_bucket"
    found = [value(samples, name, le=le) for le in ("0.01", "0.02", "81.92", "+Inf")]
    assert found == [1, 2, 2, 3]


def test_an_unknown_cost_is_told_as_unknown_and_not_as_nothing():
    counted = Meter()
    counted.count_usage(usage_row(cost_usd=None))
    samples = parse(exposition(counted=counted))
    assert value(samples, "llmchat_runs_with_unknown_cost_total") == 1
    assert not [name for name, _ in samples if name == "llmchat_cost_usd_total"]


def test_labels_with_quotes_and_line_breaks_are_escaped():
    counted = Meter()
    counted.count_usage(usage_row(model='a"b\\c\nd'))
    (pairs,) = [
        pairs for name, pairs in parse(exposition(counted=counted)) if name == "llmchat_runs_total"
    ]
    assert dict(pairs)["model"] == r"a\"b\\c\nd"


def test_the_docs_list_every_metric_with_its_kind_and_labels():
    counted = Meter()
    counted.count_usage(
        usage_row(prompt_tokens=1, cost_usd=1, code="c", processing_time=1, time_to_first_chunk=1)
    )
    counted.count_usage(usage_row(code="c", cost_usd=None))
    counted.count_retry("p", "m", "c")
    text = exposition(list(gauges()), counted)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in kinds}
    for name, pairs in parse(text):
        base = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        labels[base] |= {label for label, _ in pairs} - {"le", "gen_ai_operation_name"}
    rows = re.findall(r"^\| `(\w+)` \| (counter|histogram|gauge) \| (.*?) \|", DOCS, re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == kinds
    for name, _, told in rows:
        without_values = re.sub(r"\(.*?\)", "", told)
        assert set(re.findall(r"`(\w+)`", without_values)) == labels[name], name


def test_labels_are_bounded():
    counted = Meter()
    for number in range(MOST_LABELS + 50):
        counted.count_usage(usage_row(model=f"m{number}"))
    samples = parse(exposition(counted=counted))
    runs = [pairs for name, pairs in samples if name == "llmchat_runs_total"]
    assert len(runs) == MOST_LABELS + 1
    assert value(samples, "llmchat_runs_total", model=metering.OTHER) == 50
