"""Settings: the README lists them as they are, bad values stop the start, secrets stay secret."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llmchat import settings
from llmchat.env import Env
from tests.servers.processes import ROOT

README = (ROOT / "README.md").read_text()
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
SHOWN = {name: (default.strip(), unit.strip()) for name, _, default, unit in ROW.findall(README)}
# Their defaults depend on the machine, so the README tells them in words.
IN_WORDS = {"DATA_DIR", "DATABASE_URL"}
# Nobody set them: they are made, so they have no default either.
MADE = {"SECRET_KEY", "ENCRYPTION_KEYS", "ADMIN_PASSWORD"}
MARKED = "marked-7d1f"  # in values that must not be repeated


def manage(data_dir, *arguments, **environment):
    """A command in a process of its own; nothing of this machine's `.env` or environment."""
    unset = dict.fromkeys(settings.env.names, "")
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            **unset,
            "DJANGO_SETTINGS_MODULE": "llmchat.settings",
            "DATA_DIR": str(data_dir),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# ---- The README's table


def test_the_readme_lists_every_variable_that_the_settings_read():
    assert set(settings.env.names) - set(SHOWN) == set()


def test_the_readme_lists_no_variable_that_the_settings_do_not_read():
    assert set(SHOWN) - set(settings.env.names) == set()


def test_no_variable_is_listed_twice():
    names = [name for name, *_ in ROW.findall(README)]
    assert sorted(names) == sorted(set(names))


def test_defaults_that_the_readme_shows_are_the_real_ones(monkeypatch):
    real = {}
    read = Env.text

    def recorded(env, name, default=""):
        real[name] = default
        return read(env, name, default)

    monkeypatch.setattr(Env, "text", recorded)
    runpy.run_path(str(ROOT / "llmchat" / "settings.py"))
    for name, (shown, _) in SHOWN.items():
        if name in MADE:
            assert real[name] == "", name
            assert "made" in shown, name
        elif name not in IN_WORDS:
            literal = re.fullmatch(r"`(.+)`", shown)
            assert (literal[1] if literal else "") == real[name], name
            assert literal or shown == "none", name


def test_durations_and_sizes_say_their_unit():
    for name, (_, unit) in SHOWN.items():
        if name.endswith(("_TIMEOUT", "_DELAY", "_INTERVAL", "_DURATION", "_GRACE")):
            assert unit == "seconds", name
        if name.endswith("_BYTES"):
            assert unit == "bytes", name


# ---- Bad values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("DEBUG", "perhaps"),
        ("CONNECT_TIMEOUT", "soon"),
        ("CONNECT_TIMEOUT", "nan"),
        ("SECRET_KEY", "change-me"),
        ("SECRET_KEY", f"secret-{MARKED}-0123456789-0123456789"),
        ("ENCRYPTION_KEYS", "x"),
        ("ENCRYPTION_KEYS", MARKED),
        ("METRICS_TOKEN", MARKED),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"collector/{MARKED}"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", f"nonsense://user:{MARKED}@host/name"),
        ("DATABASE_URL", f"postgres://user:{MARKED}@host:port/name"),
    ],
)
def test_a_bad_value_stops_the_start_with_one_sentence(tmp_path, name, value):
    ended = manage(tmp_path, "check", **{name: value})
    assert ended.returncode != 0
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert line.startswith(f"llmchat cannot start: {name} ")
    assert line.endswith(".")
    assert MARKED not in line


def test_an_empty_value_stands_for_the_default(tmp_path):
    ended = manage(tmp_path, "check", PORT="", DEBUG="", CONNECT_TIMEOUT="", DATABASE_URL="")
    assert ended.returncode == 0, ended.stderr


# ---- Secrets


def kept(data_dir):
    return {path.name: path.read_text().strip() for path in Path(data_dir).glob("*.key")}


def test_secrets_that_nobody_set_are_made_and_only_their_owner_can_read_them(tmp_path):
    assert manage(tmp_path / "new", "check").returncode == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["encryption.key", "secret.key"]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]


def test_the_signing_key_and_the_encryption_key_differ(tmp_path):
    manage(tmp_path, "check")
    secrets = kept(tmp_path)
    assert secrets["secret.key"] != secrets["encryption.key"]
    assert min(map(len, secrets.values())) >= 32


def test_secrets_stay_the_same_at_the_next_start(tmp_path):
    manage(tmp_path, "check")
    first = kept(tmp_path)
    manage(tmp_path, "check")
    assert kept(tmp_path) == first


def test_secrets_that_are_set_are_used_and_none_are_made(tmp_path):
    manage(tmp_path / "other", "check")
    secrets = kept(tmp_path / "other")
    ended = manage(
        tmp_path / "own",
        "check",
        SECRET_KEY=secrets["secret.key"],
        ENCRYPTION_KEYS=secrets["encryption.key"],
    )
    assert ended.returncode == 0, ended.stderr
    assert kept(tmp_path / "own") == {}


def test_processes_that_start_at_once_agree_on_the_kept_secrets(tmp_path):
    code = (
        "import json; from llmchat import settings as s; "
        "print(json.dumps([s.SECRET_KEY, s.ENCRYPTION_KEYS]))"
    )
    unset = dict.fromkeys(settings.env.names, "")
    environment = {**os.environ, **unset, "DATA_DIR": str(tmp_path / "new")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=50)[0] for process in processes]
    assert len(set(said)) == 1
    assert json.loads(said[0])[0] == kept(tmp_path / "new")["secret.key"]
    assert len(list((tmp_path / "new").iterdir())) == 2  # no drafts are left
