"""The tools that the Makefile and the suite rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium
from tests.tools.pins import pins_of, problems

ROOT = Path(__file__).parents[2]


# ---- Chromium
@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH; Playwright has no browser of its own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.delenv("CHROMIUM", raising=False)
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_browser_on_the_path_is_found(programs: Path) -> None:
    browser = program(programs / "google-chrome", "exit 0")
    assert chromium.find() == str(browser)


def test_a_browser_that_does_not_run_is_passed_over(programs: Path) -> None:
    program(programs / "chromium", "echo install the snap; exit 1")
    browser = program(programs / "chromium-browser", "exit 0")
    assert chromium.find() == str(browser)


def test_a_browser_that_was_asked_for_is_the_only_one_tried(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs / "chromium", "exit 0")
    monkeypatch.setenv("CHROMIUM", "/no/such/browser")
    with pytest.raises(chromium.NoChromium, match="CHROMIUM is '/no/such/browser'"):
        chromium.find_or_install()


def test_root_gets_the_browser_from_the_systems_packages(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    copy = f'/bin/cp "$0" {programs}/chromium'
    program(programs / "apt-get", f'case "$1$*" in install*chromium*) {copy} ;; esac')
    assert chromium.find_or_install() == str(programs / "chromium")


def test_who_cannot_install_a_browser_is_told_what_to_do(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(programs / "apt-get", "exit 0")
    monkeypatch.setattr(sys, "executable", str(program(programs / "python", "echo no; exit 1")))
    with pytest.raises(chromium.NoChromium, match="set CHROMIUM to the path of one"):
        chromium.find_or_install()
    assert capsys.readouterr().err == "Installing Chromium with playwright\nno\n\n"


# ---- Requirements
def test_a_package_that_is_asked_for_has_to_be_pinned() -> None:
    found = set(problems(["pytest-timeout~=2.4"], {"pytest-timeout": "2.4.0"}))
    assert found == {"pytest is not pinned, and pytest-timeout asks for it."}


def test_a_pin_has_to_be_of_a_version_that_is_asked_for() -> None:
    assert list(problems(["whitenoise~=6.12"], {"whitenoise": "5.0"})) == [
        "whitenoise is pinned to 5.0, and pyproject.toml asks for ~=6.12."
    ]


def test_a_pin_that_nothing_asks_for_is_found() -> None:
    assert list(problems([], {"whitenoise": "5.0"})) == [
        "whitenoise is pinned, and nothing asks for it."
    ]


def test_pins_of_other_platforms_do_not_count() -> None:
    text = "A.b==1.0 \\\n    --hash=sha256:0\nc==2 ; sys_platform == 'nowhere' \\\n"
    assert pins_of(text) == {"a-b": "1.0"}


# ---- Skips
def session(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    """A pytest session of its own, with one test module."""
    (folder / "test_it.py").write_text(f"import pytest\n{test}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-p", "no:django"]
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(folder), str(folder)],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


SKIPS = {
    "a skip": "@pytest.mark.skip(reason='why')\ndef test_one(): pass",
    "a skip inside": "def test_one(): pytest.skip('why')",
    "a module": "pytest.skip('why', allow_module_level=True)",
    "an expected failure": "@pytest.mark.xfail(reason='why')\ndef test_one(): assert False",
}


@pytest.mark.parametrize("test", SKIPS.values(), ids=SKIPS)
def test_what_is_skipped_fails_the_session_in_ci(tmp_path: Path, test: str) -> None:
    done = session(tmp_path, test, ci="true")
    assert done.returncode == 1
    assert "skipped, which is a failure in CI" in done.stdout
    assert "why" in done.stdout


def test_elsewhere_a_skip_is_fine(tmp_path: Path) -> None:
    assert session(tmp_path, SKIPS["a skip"], ci="").returncode == 0


def test_a_session_without_skips_passes_in_ci(tmp_path: Path) -> None:
    assert session(tmp_path, "def test_one(): pass", ci="true").returncode == 0


def test_a_skip_with_a_reason_that_holds_in_ci_passes(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests import skips\nskips.ALLOWED['*::test_one'] = 'a reason'\n"
    )
    assert session(tmp_path, SKIPS["a skip"], ci="true").returncode == 0
