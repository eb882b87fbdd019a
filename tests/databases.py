"""A pytest plugin: which tests use the database, and which of them hold on SQLite alone.

`-m database` selects those that use the database of their own process, whichever it is. A test with
the mark `sqlite` is about something that only SQLite has, and is left out where another is used:
deselected, not skipped, as there is nothing to mend. `tests/conftest.py` registers the plugin.
"""

import pytest
from django.db import connection

MARKERS = (
    "database: uses the database of the test process; set for all that ask for it by a fixture",
    "sqlite: holds on SQLite alone; left out on other databases",
)
FIXTURES = {"db", "transactional_db"}


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        asks = FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if asks or item.get_closest_marker("django_db"):
            item.add_marker("database")
    if connection.vendor != "sqlite":
        left_out = [item for item in items if item.get_closest_marker("sqlite")]
        items[:] = [item for item in items if not item.get_closest_marker("sqlite")]
        config.hook.pytest_deselected(items=left_out)
