"""The Chromium of the browser tests: found, or else installed.

`python -m tests.browser.chromium` prints its path. What is found is also tried, because some
systems install a program of that name which only says that there is none.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
# Fonts, too: without them screenshots of Chinese, Japanese or emoji show empty boxes.
PACKAGES = (
    "chromium",
    "fonts-dejavu-core",
    "fonts-noto-cjk",
    "fonts-noto-color-emoji",
    "fonts-noto-core",
)


class NoChromium(Exception):
    """There is none, and none could be installed; the message says what to do."""


def find() -> str | None:
    """The path of a Chromium or Chrome that runs; CHROMIUM, if set, is the only one tried."""
    if wanted := os.environ.get("CHROMIUM"):
        if path := shutil.which(wanted):
            return path
        raise NoChromium(f"CHROMIUM is {wanted!r}, which is no program; correct it or unset it.")
    return next(filter(_runs, _candidates()), None)


def find_or_install() -> str:
    """The path of a Chromium that runs. Raises NoChromium."""
    path = find()
    for install in (_from_system_packages, _from_playwright):
        if path is None and install():
            path = find()
    if path is None:
        raise NoChromium(
            "The browser tests need Chromium or Chrome, and neither could be installed. Install "
            "one, or set CHROMIUM to the path of one."
        )
    return path


def _candidates() -> Iterator[str]:
    yield from filter(None, map(shutil.which, (*NAMES, MAC)))
    # Playwright's own, newest first; where it is depends on its version and on the system.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.executable_path


def _runs(path: str) -> bool:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _from_system_packages() -> bool:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    _say("Installing Chromium and fonts from the system's packages")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES]
    return _run(["apt-get", "update", "-qq"], environment) and _run(install, environment)


def _from_playwright() -> bool:
    _say("Installing Chromium with playwright")
    return _run([sys.executable, "-m", "playwright", "install", "chromium"], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> bool:
    """Whether `command` succeeds; what it says is shown if not."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        _say(done.stdout)
    return done.returncode == 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    try:
        print(find_or_install())
    except NoChromium as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
