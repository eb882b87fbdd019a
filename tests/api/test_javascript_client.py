"""OpenAI's own JavaScript client, unchanged, where Node is there (contract A1).

npm gets the client, in the version that package.json names, into the project's cache.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers.app import AppServer
from tests.servers.processes import ROOT
from tests.servers.provider import Provider, openai_answer

SOURCE = Path(__file__).parent / "javascript"
PLACE = ROOT / ".cache" / "javascript"
NPM = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")


@pytest.fixture(scope="module")
def script() -> Path:
    """The script beside the installed client."""
    PLACE.mkdir(parents=True, exist_ok=True)
    wanted = (SOURCE / "package.json").read_text()
    installed = PLACE / "package.json"
    if not (PLACE / "node_modules" / "openai").exists() or installed.read_text() != wanted:
        installed.write_text(wanted)
        done = subprocess.run(NPM, cwd=PLACE, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm could not install the client: {done.stderr.strip()[-300:]}")
    return Path(shutil.copy(SOURCE / "client.js", PLACE))


@pytest.mark.contract("A1")
@pytest.mark.timeout(180)  # with the installation
@pytest.mark.usefixtures("openai")
def test_it_lists_models_gets_answers_whole_and_in_pieces_and_raises_its_errors(
    script: Path, app: AppServer, secret: str, provider: Provider
):
    provider.route(*openai_answer("Hello", " there", usage=(11, 7)), model="double-1")
    environment = {**os.environ, "OPENAI_BASE_URL": f"{app.url}/v1", "OPENAI_API_KEY": secret}
    done = subprocess.run(
        ["node", script.name], cwd=script.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["models"] == ["double"]
    assert (found["whole"], found["usage"]) == ("Hello there", 18)
    assert "".join(found["pieces"]) == "Hello there"
    assert found["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
