"""Chromium, people in it, and the rules that hold in every page of every test.

A test fails when a page writes an error or a warning to the console, throws, opens a dialog of the
browser, asks any host but 127.0.0.1, or has received something else than what is stored; what a
test provokes on purpose it allows with `watch`.
When a test fails, screenshots of its pages are in `test-results/`.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from conversations.engine import get_engine
from conversations.models import Run
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.browser.chromium import find
from tests.browser.watch import Watch
from tests.servers.app import AppServer

SCREENSHOTS = Path("test-results")
WATCH = pytest.StashKey[Watch]()
OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PHONE: dict[str, Any] = {
    "viewport": {"width": 375, "height": 812},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}

DEADLINE = 10_000  # ms that a test waits for anything

expect.set_options(timeout=DEADLINE)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; each test has contexts of its own in it."""
    # Playwright keeps an event loop in this thread, beside which Django refuses its ORM.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        with sync_playwright() as playwright:
            path = os.environ.get("CHROMIUM") or find()
            assert path, "no Chromium: run `python -m tests.browser.chromium`"
            browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
            yield browser
            browser.close()


@pytest.fixture
def watch(request: pytest.FixtureRequest) -> Watch:
    """What must not happen in this test's pages, and what of it is allowed."""
    return request.node.stash.setdefault(WATCH, Watch())


@pytest.fixture
def open_browser(
    chromium: Browser, app: AppServer, watch: Watch
) -> Iterator[Callable[..., BrowserContext]]:
    """Opens a window of its own; for a `user`, signed in as them. Another `base_url` may lead to
    the app as well."""
    contexts: list[BrowserContext] = []

    def open_one(user: User | None = None, **options: Any) -> BrowserContext:
        options = {"base_url": app.url, **DESKTOP, **options}
        context = chromium.new_context(**options)
        context.set_default_timeout(DEADLINE)
        contexts.append(context)
        watch.over(context, options["base_url"])
        if user:
            sign_in(context, app, user)
        return context

    yield open_one
    for context in contexts:
        context.close()
    _end_runs(app)


@pytest.fixture(scope="session")
def kept_window(chromium: Browser, running_app: AppServer) -> BrowserContext:
    """A wide window for all tests in turn, for its cache: else each would load 45 files anew."""
    context = chromium.new_context(base_url=running_app.url, **DESKTOP)
    context.set_default_timeout(DEADLINE)
    return context


@pytest.fixture
def ada_user(make_user: Callable[..., User]) -> User:
    return make_user("ada")


@pytest.fixture
def window(
    kept_window: BrowserContext, app: AppServer, watch: Watch, ada_user: User
) -> Iterator[BrowserContext]:
    """A wide window in which Ada, a plain user, is signed in."""
    watch.over(kept_window, app.url)
    sign_in(kept_window, app, ada_user)
    yield kept_window
    watch.leave(kept_window)
    _forget(kept_window, app.url)
    _end_runs(app)


@pytest.fixture
def page(window: BrowserContext) -> Page:
    return window.new_page()


@pytest.fixture
def chat(page: Page, openai: Configuration) -> Chat:
    """An empty chat of Ada's in a wide window, answered by the provider double."""
    return Chat(page).open("/")


@pytest.fixture
def phone(open_browser: Callable[..., BrowserContext], ada_user: User) -> Page:
    """A page on a phone, 375 px wide, with touch."""
    return open_browser(ada_user, **PHONE).new_page()


def sign_in(context: BrowserContext, app: AppServer, user: User) -> None:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    cookie = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": cookie, "url": app.url, "httpOnly": True}])


def _forget(context: BrowserContext, origin: str) -> None:
    """Leaves nothing of a test in its window but the cached files."""
    for page in context.pages:
        page.close()
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    kinds = "cookies,local_storage,indexeddb,cache_storage,service_workers"
    devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": kinds})
    page.close()
    context.clear_cookies()
    context.clear_permissions()
    context.set_offline(False)


def _end_runs(app: AppServer) -> None:
    """No run of this test writes into the database of the next."""
    assert app.loop is not None
    for run_id in list(Run.objects.running().values_list("pk", flat=True)):
        stop = get_engine().stop(run_id)
        asyncio.run_coroutine_threadsafe(stop, app.loop).result(20)


def pytest_itemcollected(item: pytest.Item) -> None:
    # FIXME: goes when llmchat.middleware.StaticFiles gives its files as async iterators.
    item.add_marker(pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Within the call, so that the pages are still open, and a problem is the test's failure."""
    try:
        result = yield
        if watch := pyfuncitem.stash.get(WATCH, None):
            watch.check()
            assert (counted := _mismatches()) == watch.mismatches, f"{counted} mismatches"
        return result
    except BaseException as error:
        if watch := pyfuncitem.stash.get(WATCH, None):
            for line in [*_pictures(pyfuncitem.nodeid, watch), *watch.problems]:
                error.add_note(line)
        raise


def _mismatches() -> int:
    """How often a page had received something else than what is stored."""
    return sum(Run.objects.values_list("mismatches", flat=True))


def _pictures(nodeid: str, watch: Watch) -> Iterator[str]:
    SCREENSHOTS.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", nodeid.partition("::")[2])[:120]
    for number, page in enumerate(watch.pages, 1):
        path = SCREENSHOTS / f"{name}-{number}.png"
        try:
            page.screenshot(path=path, timeout=5_000)
        except Error as error:
            yield f"no screenshot: {error.message}"
        else:
            yield f"screenshot: {path}"
