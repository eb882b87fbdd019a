"""The examples of docs/api.md, each run as it stands; those in JavaScript run in tests/browser."""

import os
import re
import subprocess
import sys

import pytest

from conversations.api.errors import STATUSES
from providers.models import Configuration
from tests.servers.app import AppServer
from tests.servers.processes import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [(language, body) for language, body in FENCE.findall(TEXT) if language != "js"]
RUN = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def run(language: str, body: str, app: AppServer, secret: str) -> str:
    """What an example prints."""
    body = body.replace("http://localhost:8000", app.url)
    ended = subprocess.run(
        [*RUN[language], body],
        env={**os.environ, "LLMCHAT_TOKEN": secret},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("language", "body"), EXAMPLES, ids=[f"{n} {lang}" for n, (lang, _) in enumerate(EXAMPLES)]
)
def test_an_example_does_what_it_says(
    app: AppServer, secret: str, demo: Configuration, language: str, body: str
):
    said = run(language, body, app, secret)
    if "Hello there" in body:
        # Chunks may cut it anywhere.
        assert re.search("Hello.*there", said, re.DOTALL)
    if '"stream": true' in body:
        assert said.rstrip().endswith("data: [DONE]")
    if "City" in body:
        assert "name=" in said
    if "In the browser:" in body:
        assert f"In the browser: {app.url}/chat/" in said
        assert '"type":"done"' in said


def test_every_code_of_a_failure_is_in_the_docs_beside_its_status():
    rows = dict(re.findall(r"^\| (\d{3}) \| (.+) \|$", TEXT, re.MULTILINE))
    for code, status in STATUSES.items():
        assert f"`{code}`" in rows[str(status)], code
