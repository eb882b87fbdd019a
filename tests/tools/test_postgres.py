"""The suite on another database: the command that gives it one, and what it leaves out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.servers import postgres

ROOT = Path(__file__).parents[2]
NOWHERE = "postgres://nobody@127.0.0.1:9/none"
CHILD = """
import os, psycopg, sys
server, _, name = os.environ["DATABASE_URL"].rpartition("/")
with psycopg.connect(f"{server}/{name}", autocommit=True) as connection:
    assert not connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'").fetchall()
    connection.execute(f'CREATE DATABASE "test_{name}"')
print("DATABASE", name)
sys.exit(3)
"""


def test_a_command_gets_a_new_database_and_nothing_of_it_is_left() -> None:
    try:
        with postgres.postgres() as server_url:
            done = subprocess.run(
                [sys.executable, "-m", "tests.servers.postgres", sys.executable, "-c", CHILD],
                env={**os.environ, "TEST_POSTGRES_URL": server_url},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
            with psycopg.connect(f"{server_url}/postgres") as connection:
                left = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
    except postgres.NoPostgres as reason:
        pytest.skip(str(reason))
    assert done.returncode == 3, done.stderr
    said = re.search(r"^DATABASE (\w+)$", done.stdout, re.MULTILINE)
    assert said
    assert not left & {said[1], f"test_{said[1]}"}


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_without_a_server_it_says_what_it_leaves_out_which_is_a_failure_in_ci(
    ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(postgres, "RUNNING", NOWHERE)
    monkeypatch.setattr(postgres, "programs", lambda: None)
    monkeypatch.setenv("CI", ci)
    assert postgres.main(["pytest", "tests/monitor"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Left out, as no PostgreSQL answers")
    assert line.endswith(": pytest tests/monitor")


def collected(*arguments: str, database_url: str = "") -> set[str]:
    """The files of which pytest would run a test."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments],
        env={**os.environ, "DATABASE_URL": database_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode in (0, 5), done.stdout
    return set(re.findall(r"^(\S+?)::", done.stdout, re.MULTILINE))


FULL_DISK, ACCOUNTS = "tests/faults/test_f13_full_disk.py", "tests/llmchat/test_accounts.py"
WITHOUT = ["tests/conversations/test_context.py", "tests/llmchat/test_lifecycle.py"]


def test_what_uses_no_database_is_told_apart() -> None:
    assert collected("-m", "database", FULL_DISK, ACCOUNTS, *WITHOUT) == {FULL_DISK, ACCOUNTS}


def test_what_holds_on_sqlite_alone_is_left_out_elsewhere_and_not_skipped() -> None:
    assert collected(FULL_DISK, ACCOUNTS, database_url=NOWHERE) == {ACCOUNTS}
