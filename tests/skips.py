"""A pytest plugin: where CI is set, a test that was skipped fails the session.

A skip that holds in CI too is listed here with its reason. `tests/conftest.py` registers the
plugin: `pytest_plugins = ["tests.skips"]`.
"""

import os
from fnmatch import fnmatchcase

import pytest

# Node id, with * and ? as in file names: why it may be skipped in CI.
ALLOWED: dict[str, str] = {}

SKIPPED = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.stash[SKIPPED] = {}
        config.pluginmanager.register(_Recorder(config.stash[SKIPPED]), "skips-recorder")


class _Recorder:
    """Notes what was skipped or failed as expected, tests and whole modules, with the reason."""

    def __init__(self, skipped: dict[str, str]) -> None:
        self.skipped = skipped

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not any(fnmatchcase(report.nodeid, allowed) for allowed in ALLOWED):
            place = report.longrepr
            reason = place[2] if isinstance(place, tuple) else getattr(report, "wasxfail", "")
            self.skipped[report.nodeid] = reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(SKIPPED, None) and session.exitstatus in {0, 5}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if skipped := config.stash.get(SKIPPED, None):
        terminalreporter.section("skipped, which is a failure in CI", red=True)
        for nodeid, reason in sorted(skipped.items()):
            terminalreporter.line(f"{nodeid}: {reason}")
