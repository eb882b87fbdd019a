"""The docs say what is true: their pages open, their links lead somewhere, their examples work."""

import json
import re
import tomllib
from io import StringIO
from urllib.parse import urljoin, urlsplit

import pytest
from django.core.management import call_command, get_commands

from providers import seeding
from providers.adapters import demo, registry
from tests.servers.processes import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES)
}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
texts = pytest.mark.parametrize("name", TEXTS)


def fences(name, language):
    return [body for found, body in FENCE.findall(TEXTS[name]) if found == language]


# ---- Help


@pytest.mark.django_db
@pytest.mark.parametrize("page", [path.stem for path in PAGES])
def test_every_page_of_the_docs_is_a_page_of_the_help(client, page):
    answer = client.get(f"/help/{page}/")
    assert answer.status_code == 200
    title = TEXTS[f"docs/{page}.md"].partition("\n")[0]
    assert title.startswith("# ")
    content = answer.content.decode()
    assert f"<title>{title[2:]} · Help · llmchat</title>" in content
    assert re.search(rf"<h1[^>]*>{re.escape(title[2:])}</h1>", content)


@pytest.mark.django_db
def test_help_begins_with_how_to_use_the_chat(client):
    assert "Using llmchat</h1>" in client.get("/help/").content.decode()
    assert client.get("/help/none/").status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize("page", [path.stem for path in PAGES])
def test_links_between_pages_of_the_help_lead_somewhere(client, page):
    address = f"/help/{page}/"
    for target in re.findall(r'<a [^>]*href="([^"]+)"', client.get(address).content.decode()):
        if not urlsplit(target).netloc:
            answer = client.get(urljoin(address, target))
            assert answer.status_code in (200, 302), target


# ---- Text


@texts
def test_relative_links_lead_to_files_that_exist(name):
    for target in LINK.findall(TEXTS[name]):
        if not urlsplit(target).scheme and not target.startswith("#"):
            assert ((ROOT / name).parent / target.partition("#")[0]).exists(), target


@texts
def test_pictures_are_small_enough_to_load_at_once(name):
    for target in re.findall(r"\]\(([^)]+\.png)\)", TEXTS[name]):
        assert ((ROOT / name).parent / target).stat().st_size <= 300 * 1024, target


@texts
def test_nothing_tells_where_or_how_it_was_written(name):
    assert not re.search(r"/work/|/tmp/|\.\./shared|/root/|pypi\.", TEXTS[name])


def test_the_decisions_name_every_package_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    rows = re.findall(r"^\| ([^|]+) \|", TEXTS["docs/decisions.md"], re.MULTILINE)
    named = {package for row in rows for package in re.findall(r"[\w-]+", row)}
    for requirement in asked:
        package = re.match(r"[\w-]+", requirement)
        assert package
        assert package[0] in named, requirement


# ---- Examples


@texts
@pytest.mark.django_db
def test_toml_examples_can_be_applied_and_applied_again(name, tmp_path, settings):
    settings.READ_API_KEY = {"OPENAI_API_KEY": "sk-0123456789"}.get
    for number, body in enumerate(fences(name, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(body)
        out = StringIO()
        call_command("seed_configurations", file=file, stdout=out)
        assert set(re.findall(r"^\w+", out.getvalue(), re.MULTILINE)) == {"created"}
        out = StringIO()
        call_command("seed_configurations", file=file, stdout=out)
        assert set(re.findall(r"^\w+", out.getvalue(), re.MULTILINE)) == {"unchanged"}


def test_the_readme_has_a_toml_example_with_every_table():
    (example,) = fences("README.md", "toml")
    tables = tomllib.loads(example)["configuration"]
    assert {key for table in tables for key in table} >= {*seeding.TABLES, "api_key_env"}


@texts
def test_commands_that_are_named_exist(name):
    named = set(re.findall(r"manage\.py ([a-z_]+)", TEXTS[name]))
    assert named - set(get_commands()) == set()


@texts
def test_commands_of_make_that_are_named_exist(name):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", TEXTS[name], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_names_every_kind_of_provider_and_no_other():
    (sentence,) = re.findall(r"kinds of provider:(.+?)\.", TEXTS["README.md"], re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", sentence)) == registry.kinds()


def test_the_help_lists_the_commands_of_the_demo_and_no_other():
    def listed(text):
        return re.findall(r"^\| `(/demo [^`]+)` \| ([^|]+) \|$", text, re.MULTILINE)

    own = listed(demo.plan_for([{"role": "user", "content": "/demo help"}]).content)
    assert own
    assert listed(TEXTS["docs/using.md"]) == own


def test_the_help_lists_the_shortcuts_of_the_page_and_no_other():
    page = (ROOT / "templates" / "conversations" / "_shortcuts.html").read_text()
    shown = [
        "+".join(re.findall(r"<kbd[^>]*>([^<]+)</kbd>", keys)).replace("?+", "? or ")
        for keys in re.findall(r"<dd>(.+?)</dd>", page)
    ]
    table = TEXTS["docs/using.md"].partition("## Keyboard")[2].partition("## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)
    assert rows[1:] == shown


# ---- What operators rely on


@pytest.mark.django_db
def test_health_is_told_without_a_login(client):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert json.dumps(answer.json()) in TEXTS["docs/operations.md"]


# ---- The composition


def test_the_composition_uses_only_settings_that_there_are_and_no_open_question():
    text = (ROOT / "compose.yaml").read_text()
    app = text.partition("x-llmchat")[2].partition("extra_hosts")[0]
    settings = set(re.findall(r"^    ([A-Z_]+):", app, re.MULTILINE))
    assert {"DATABASE_URL", "REDIS_URL"} <= settings
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", TEXTS["README.md"], re.MULTILINE))
    assert settings <= listed
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert asked - listed == {"POSTGRES_PASSWORD"}


def test_the_proxy_of_the_composition_holds_nothing_back_and_waits_longer_than_a_ping():
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    assert "proxy_buffering off;" in text
    (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(timeout) > 15
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in text
