"""A18: a marked key, and a marked header, are looked for wherever something leaves a whole process.

The key is entered by the admin's form, sent to a provider that says it back in every way it can,
and then searched in all that the site answers, logs and stores, in the forms that it may have
there. Addresses are taken from the routes themselves, so that a new page is searched as well.
"""

import base64
import html
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.fernet import Fernet
from django.urls import URLResolver, get_resolver

from tests.people import Person
from tests.servers.provider import Provider, head, json_answer, openai_answer, openai_chunk, send
from tests.servers.sites import ADMIN, PASSWORD, Site, uvicorn

KEY = 'planted/5d1f7c+key&is<this>="0"'  # looks like no key, and differs when it is quoted
SECOND_KEY = "sk-planted-7d9e2a-0123456789"
HEADER = "planted-header-3b8c4e"
METRICS = "metrics-token-0123456789-0123456789"
SOON = 1.0  # s in which a stream without end says what it has to say
# What is asked with a POST alone, or leads out.
LEFT_OUT = re.compile(r"^(accounts/logout|chat/stream)/|(delete|revoke|stop)/$")


def forms_of(secret: str) -> set[bytes]:
    """How a secret may be written down: as it is, or quoted for an address, JSON or HTML."""
    texts = {
        secret,
        quote(secret),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        html.escape(secret),
        base64.b64encode(secret.encode()).decode().rstrip("="),
    }
    return {text.encode() for text in texts}


KEYS = forms_of(KEY) | forms_of(SECOND_KEY)


def routes(resolver: Any = None, prefix: str = "") -> Iterator[str]:
    """All addresses of the site as the routes have them; the admin's are looked at by name."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = prefix + str(pattern.pattern)
        if not isinstance(pattern, URLResolver):
            yield route
        elif pattern.namespace != "admin":
            yield from routes(pattern, route)


def filled(route: str, known: dict[str, str]) -> str | None:
    """The route with the parameters that are known; None where one is not."""
    names = re.findall(r"<(?:\w+:)?(\w+)>", route)
    if not known.keys() >= set(names):
        return None
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: known[found[1]], route)


def read(http: httpx.Client, path: str, **headers: str) -> tuple[int, bytes]:
    """Status, and headers and body as far as they come soon: some streams have no end."""
    received = bytearray()
    asked_at = monotonic()
    with http.stream("GET", path, headers=headers, timeout=httpx.Timeout(10, read=SOON)) as answer:
        received += repr(answer.headers.multi_items()).encode()
        try:
            for data in answer.iter_raw():
                received += data
                if monotonic() - asked_at > SOON:
                    break
        except httpx.ReadTimeout:
            pass
        return answer.status_code, bytes(received)


def posted(**values: str) -> dict[str, str]:
    return {
        "name": "Double",
        "slug": "double",
        "kind": "openai",
        "model": "m",
        "is_active": "on",
        "is_default": "on",
        "extra_headers": json.dumps({"X-Team": HEADER}),
        "extra_body": "{}",
        **values,
    }


@pytest.mark.contract("A18")
@pytest.mark.contract("G9")
@pytest.mark.timeout(120)
def test_a_planted_key_is_found_nowhere_but_encrypted(sqlite_site: Site, provider: Provider):
    site = {**sqlite_site, "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "METRICS_TOKEN": METRICS}
    said_back = {"error": {"message": f"Incorrect API key: {KEY}", "param": KEY}}
    found: dict[str, bytes] = {}
    statuses: dict[str, int] = {}
    with uvicorn(site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        base_url = one(site, "SELECT base_url FROM providers_configuration WHERE slug = 'double'")
        row = one(site, "SELECT id FROM providers_configuration WHERE slug = 'double'")
        change = f"/admin/providers/configuration/{row}/change/"
        for key in (SECOND_KEY, KEY):
            answer = admin.post(change, data=posted(base_url=base_url, api_key=key))
            assert answer.status_code == 302, answer.text
        # A refused form must not show again what was typed either.
        refused = admin.post(change, data=posted(base_url="nonsense", api_key=f"{KEY} "))
        found["the refused form"] = refused.content.replace(HEADER.encode(), b"")

        provider.reply(*openai_answer("Hello", " there"))
        provider.reply(*json_answer(said_back, status=429))
        provider.reply(*json_answer(said_back, status=401))
        provider.reply(
            head(), send(openai_chunk("begun")), send(f"data: {json.dumps(said_back)}\n\n")
        )
        provider.reply(*json_answer(said_back, status=500))
        provider.reply(*json_answer(said_back, status=401))
        runs = []
        chat = admin.new_chat()
        for prompt in ("good", "refused", "broken"):
            runs.append(admin.ask(chat, prompt))
            found[f"the events of {prompt}"] = repr(admin.events(runs[-1])).encode()
        for page in ("test", "models"):
            answer = admin.post(change.replace("change", page), follow_redirects=True)
            found[f"the admin's {page}"] = answer.content.replace(HEADER.encode(), b"")
        assert {request.headers["authorization"] for request in provider.requests} == {
            f"Bearer {KEY}"
        }
        assert len(provider.requests) == 6
        assert {request.headers["x-team"] for request in provider.requests} == {HEADER}

        message = one(site, "SELECT max(id) FROM conversations_message")
        html_wanted = {"Accept": "text/html,application/json"}
        for number, run in enumerate(runs):
            known = {
                "run_id": run["run_id"],
                "session_id": chat,
                "message_id": str(message),
                "slug": "double",
                "name": "operations",
                "rest": "nothing",
            }
            for route in routes():
                path = None if LEFT_OUT.search(route) else filled(route, known)
                if path is None or (number and "run_id" not in route):
                    continue
                for query in ("", "?as=curl", "?view=html"):
                    if query and "run_id" not in route:
                        continue
                    status, content = read(admin.http, f"/{path}{query}", **html_wanted)
                    statuses[f"{route} of run {number}"] = status
                    found[f"/{path}{query}"] = content
        for path in (
            "providers/configuration/",
            f"providers/configuration/{row}/revisions/",
            f"providers/configuration/{row}/history/",
            "conversations/auditevent/",
            "conversations/run/",
            f"conversations/run/{runs[2]['run_id']}/change/",
            "conversations/usagelog/",
            "",
        ):
            status, found[f"/admin/{path}"] = read(admin.http, f"/admin/{path}", **html_wanted)
            assert status == 200, path
        status, found["the form"] = read(admin.http, change, **html_wanted)
        assert status == 200
        assert HEADER.encode() in found["the form"]  # for who may change it, as the help says
        found["the form"] = found["the form"].replace(HEADER.encode(), b"")
        for path in ("/nothing/", "/v1/chat/completions", "/accounts/login/?next=//x"):
            found[f"a stranger's {path}"] = httpx.get(url + path, trust_env=False).content
        bearer = {"Authorization": f"Bearer {METRICS}"}
        metrics = httpx.get(f"{url}/metrics", headers=bearer, trust_env=False)
        assert "llmchat_runs_total" in metrics.text
        found["/metrics"] = metrics.content
        process.send_signal(15)
        process.end()
    assert {route: status for route, status in statuses.items() if status >= 500} == {}
    found["the log"] = "\n".join(process.said).encode()
    stored = b"".join(path.read_bytes() for path in Path(site["DATA_DIR"]).glob("llmchat.sqlite3*"))

    # What is looked for is there where it has to be, and could be found.
    token = one(site, "SELECT api_key FROM providers_configuration WHERE slug = 'double'")
    fernet = Fernet(Path(site["DATA_DIR"], "encryption.key").read_text().strip())
    assert fernet.decrypt(str(token).encode()).decode() == KEY
    assert str(token).encode() in stored
    assert b"[hidden]" in found["the events of refused"]

    assert [place for place, content in found.items() if any(key in content for key in KEYS)] == []
    assert [key for key in KEYS if key in stored] == []
    assert [place for place, content in found.items() if HEADER.encode() in content] == []
    # In the database it is in the one field that is for it.
    assert HEADER in one(
        site, "SELECT extra_headers FROM providers_configuration WHERE slug = 'double'"
    )
    tables = [name for name in tables_of(site) if name != "providers_configuration"]
    assert [name for name in tables if has(site, name, "3b8c4e")] == []


def one(site: Site, query: str) -> Any:
    with closing(sqlite3.connect(f"{site['DATA_DIR']}/llmchat.sqlite3", timeout=20)) as connection:
        return connection.execute(query).fetchone()[0]


def tables_of(site: Site) -> list[str]:
    with closing(sqlite3.connect(f"{site['DATA_DIR']}/llmchat.sqlite3", timeout=20)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [name for (name,) in rows]


def has(site: Site, table: str, text: str) -> bool:
    """Whether any row of a table holds this text."""
    with closing(sqlite3.connect(f"{site['DATA_DIR']}/llmchat.sqlite3", timeout=20)) as connection:
        return any(text in repr(row) for row in connection.execute(f'SELECT * FROM "{table}"'))
