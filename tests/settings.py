"""The settings of the tests: the project's own, with a data folder that goes when they end."""

import atexit
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="llmchat-tests-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
_own = {
    "DATA_DIR": _folder,
    "DEBUG": "false",
    "LOG_LEVEL": "WARNING",
    "RETRY_BASE_DELAY": "0.05",
    "HEARTBEAT_INTERVAL": "1",
    "SHUTDOWN_GRACE": "1",
    # 30 years: the app beside the tests must not compact what a test is about to look at.
    "COMPACT_AFTER": "1000000000",
}
# Nothing of the developer's own environment: the tests are the same everywhere.
for _name in (
    "ADMIN_PASSWORD",
    "ALLOWED_HOSTS",
    "ALLOW_PRIVATE_ADDRESSES",
    "CONFIGURATIONS_FILE",
    "ENCRYPTION_KEYS",
    "HTTPS",
    "OLLAMA_HOST",
    "SECRET_KEY",
    *[name for name in os.environ if name.endswith("_API_KEY")],
):
    os.environ.pop(_name, None)
os.environ.update(_own)
# The database of whoever starts the tests (tests.servers.postgres), and SQLite otherwise: empty
# stands for the default, whatever `.env` says.
os.environ.setdefault("DATABASE_URL", "")
os.environ["REDIS_URL"] = ""

from llmchat.settings import *  # noqa: E402, F403
from llmchat.settings import DATABASES, STORAGES  # noqa: E402

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # In a file: live servers and pool threads have connections of their own.
    DATABASES["default"]["TEST"] = {"NAME": f"{_folder}/test.sqlite3"}
# Straight from the sources, so that no test sees yesterday's collected files.
STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = True
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
