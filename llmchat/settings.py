"""Every setting of llmchat. Only this module reads the environment (and `.env` beside manage.py).

The README lists each name with its meaning; `tests/llmchat/test_settings.py` holds it to that.
Units and defaults stand beside each one.
"""

import os
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import dj_database_url
import django_stubs_ext
from cryptography.fernet import Fernet
from csp.constants import NONE, SELF
from django.core.management.utils import get_random_secret_key
from dotenv import dotenv_values

from llmchat.env import MIN_SECRET_CHARACTERS, Env, check_secret, kept_secret, stop

django_stubs_ext.monkeypatch()  # lets Django's generic classes name their types

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env({**dotenv_values(BASE_DIR / ".env"), **os.environ})

# ---- The server
DEBUG = env.flag("DEBUG", default=False)
DATA_DIR = Path(env.text("DATA_DIR", str(BASE_DIR / "data"))).resolve()
HOST = env.text("HOST", "127.0.0.1")  # the address that `make run` listens on
PORT = env.integer("PORT", 8000, least=1, most=65_535)
ALLOWED_HOSTS = env.texts("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.texts("CSRF_TRUSTED_ORIGINS")
HTTPS = env.flag("HTTPS", default=False)  # behind TLS: redirect, HSTS and Secure cookies
TRUSTED_PROXIES = env.integer("TRUSTED_PROXIES", 0, most=10)  # how many stand in front

# ---- Secrets: two different ones, so that losing one does not open the other
SECRET_KEY = check_secret(
    "SECRET_KEY",
    env.text("SECRET_KEY") or kept_secret(DATA_DIR / "secret.key", get_random_secret_key),
    debug=DEBUG,
)
# The first encrypts; all of them can read, so that a key can be replaced.
ENCRYPTION_KEYS = env.texts("ENCRYPTION_KEYS") or [
    kept_secret(DATA_DIR / "encryption.key", lambda: Fernet.generate_key().decode())
]
for _key in ENCRYPTION_KEYS:
    try:
        Fernet(_key)
    except ValueError:
        raise stop(
            "ENCRYPTION_KEYS holds something that is no key; each is 32 bytes in URL-safe base64."
        ) from None
ADMIN_USERNAME = env.text("ADMIN_USERNAME", "admin")  # of the first administrator
ADMIN_PASSWORD = env.text("ADMIN_PASSWORD")  # empty: one is made and shown once

# ---- Applications
INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "channels",
    "csp",
    "django_htmx",
    "lucide",
    "providers",
    "conversations",
    "monitor",
    "llmchat",
]
MIDDLEWARE = [
    "llmchat.middleware.name_requests",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "llmchat.middleware.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "llmchat.urls"
ASGI_APPLICATION = "llmchat.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = env.choice("TIME_ZONE", "UTC", available_timezones())
USE_TZ = True

# ---- Storage
_database_url = env.text("DATABASE_URL", f"sqlite:///{DATA_DIR / 'llmchat.sqlite3'}")
try:
    DATABASES: dict[str, dict[str, Any]] = {"default": dict(dj_database_url.parse(_database_url))}
except ValueError:  # unreadable, or of an unknown scheme
    # The URL itself may hold a password: it is not repeated.
    raise stop(
        "DATABASE_URL cannot be read; write sqlite:///PATH or postgres://USER:PASSWORD@HOST/NAME."
    ) from None
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # Readers never wait, and writers queue instead of failing (docs/decisions.md).
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,  # s
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    DATABASES["default"]["OPTIONS"] = {
        **DATABASES["default"].get("OPTIONS", {}),  # from the URL, such as sslmode
        "pool": {
            "min_size": 1,
            "max_size": 16,
            "timeout": 4,  # s; how long a request waits for one, also while there is no database
            # s; then the next request tries at once. The driver's own pauses grow to minutes.
            "reconnect_timeout": 3,
        },
    }
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # a restart leaves dead ones in the pool

REDIS_URL = env.text("REDIS_URL")  # joins several processes; empty: there is one
if REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL]},
        }
    }

# ---- Static files: hashed names, served by the application itself
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "llmchat.staticfiles.HashedStaticFiles"
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEBUG

# ---- Accounts
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/accounts/login/"
# After 10 wrong passwords a name at an address waits, whatever password comes next.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # h
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "registration/locked.html"
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "llmchat.clients.address"
AXES_VERBOSE = False

# ---- Browser security
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
if HTTPS and TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
CSRF_FAILURE_VIEW = "llmchat.pages.csrf_failure"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576  # bytes

# ---- Chat
PROMPT_MAX_CHARACTERS = env.integer("PROMPT_MAX_CHARACTERS", 5_000, least=1)
DEFAULT_CONTEXT_LIMIT = env.integer("DEFAULT_CONTEXT_LIMIT", 20, most=100)  # messages
# How long an answer is expected to be where a request has no max_tokens; for budgets
BUDGET_ANSWER_TOKENS = env.integer("BUDGET_ANSWER_TOKENS", 1_024, least=1, most=128_000)
# Under a budget of money, a model without known prices is counted in tokens alone, or refused
BUDGET_UNKNOWN_PRICE = env.choice("BUDGET_UNKNOWN_PRICE", "allow", ("allow", "refuse"))
ATTACHMENT_MAX_BYTES = env.integer("ATTACHMENT_MAX_BYTES", 10 * 1024**2, least=1024)
ATTACHMENT_MAX_SIDE = env.integer("ATTACHMENT_MAX_SIDE", 1_568, least=64, most=8_192)  # px, kept
ATTACHMENTS_PER_MESSAGE = env.integer("ATTACHMENTS_PER_MESSAGE", 8, least=1, most=100)
RUNS_PER_USER = env.integer("RUNS_PER_USER", 10, least=1)  # at a time
STREAMS_PER_USER = env.integer("STREAMS_PER_USER", 50, least=1)  # at a time
API_REQUESTS_PER_MINUTE = env.integer("API_REQUESTS_PER_MINUTE", 60, least=1)  # of a person
API_BODY_MAX_BYTES = env.integer("API_BODY_MAX_BYTES", 10 * 1024**2, least=1024)  # of a call
VIEWER_BUFFER = env.integer("VIEWER_BUFFER", 1024**2, least=64 * 1024)  # bytes unsent to one
VIEWER_STALL = env.seconds("VIEWER_STALL", 30)  # without progress, then a viewer is dropped

# ---- Providers
ALLOW_PRIVATE_ADDRESSES = env.flag("ALLOW_PRIVATE_ADDRESSES", default=True)  # loopback and LAN
OLLAMA_HOST = env.text("OLLAMA_HOST", "http://localhost:11434")  # its models are set up
CONFIGURATIONS_FILE = env.text("CONFIGURATIONS_FILE")  # TOML; declares what is set up instead
PROVIDER_KEYS = {  # each that is set gets a configuration at set-up
    name: env.text(name)
    for name in (
        "OPENAI_API_KEY",
        "OPENROUTER_API_KEY",
        "ANTHROPIC_API_KEY",
        "AIREFINERY_API_KEY",
    )
}
# The value of a variable that a configurations file names (`api_key_env`), None if it is not set.
READ_API_KEY = env.values.get

# ---- Runs; durations in seconds
CONNECT_TIMEOUT = env.seconds("CONNECT_TIMEOUT", 10)
FIRST_CHUNK_TIMEOUT = env.seconds("FIRST_CHUNK_TIMEOUT", 120)
CHUNK_TIMEOUT = env.seconds("CHUNK_TIMEOUT", 60)
TOTAL_TIMEOUT = env.seconds("TOTAL_TIMEOUT", 600)
MAX_ATTEMPTS = env.integer("MAX_ATTEMPTS", 3, least=1, most=10)  # before the first chunk
RETRY_BASE_DELAY = env.seconds("RETRY_BASE_DELAY", 1)  # doubled at each attempt, with jitter
RETRY_MAX_DELAY = env.seconds("RETRY_MAX_DELAY", 60)  # a longer wait is reported instead
HEARTBEAT_INTERVAL = env.seconds("HEARTBEAT_INTERVAL", 10, most=15)  # of a silent stream
STORE_INTERVAL = env.seconds("STORE_INTERVAL", 0.1)  # between two batched writes
LEASE_DURATION = env.seconds("LEASE_DURATION", 10)  # a run without a renewed lease is lost
SHUTDOWN_GRACE = env.seconds("SHUTDOWN_GRACE", 20)
COMPACT_AFTER = env.integer("COMPACT_AFTER", 3_600)  # s since the end of a run; 0: at once
ANSWER_MAX_BYTES = env.integer("ANSWER_MAX_BYTES", 4 * 1024**2, least=1024)
RECORD_MAX_BYTES = env.integer("RECORD_MAX_BYTES", 1024**2, least=0)  # of each provider's answer
RECORD_DAYS = env.integer("RECORD_DAYS", 0)  # that the records of provider calls stay; 0: for ever
LINE_MAX_BYTES = env.integer("LINE_MAX_BYTES", 8 * 1024**2, least=1024)  # from a provider

# ---- Operators
METRICS_TOKEN = env.text("METRICS_TOKEN")  # opens /metrics; without it only staff may read it
if METRICS_TOKEN and len(METRICS_TOKEN) < MIN_SECRET_CHARACTERS:
    raise stop(
        f"METRICS_TOKEN is shorter than {MIN_SECRET_CHARACTERS} characters; use a longer one."
    )

# Traces: the standard variables, as far as they are needed to send OTLP as JSON over HTTP.
OTEL_EXPORTER_OTLP_ENDPOINT = env.text("OTEL_EXPORTER_OTLP_ENDPOINT")  # empty: none are made
if OTEL_EXPORTER_OTLP_ENDPOINT and not OTEL_EXPORTER_OTLP_ENDPOINT.startswith(
    ("http://", "https://")
):
    raise stop("OTEL_EXPORTER_OTLP_ENDPOINT is no address; write it as http://HOST:4318.")
OTEL_EXPORTER_OTLP_HEADERS = env.texts("OTEL_EXPORTER_OTLP_HEADERS")  # name=value
OTEL_SERVICE_NAME = env.text("OTEL_SERVICE_NAME", "llmchat")

# ---- Logs
LOG_FORMATS = {"text": "llmchat.logs.TextLines", "json": "llmchat.logs.JSONLines"}
LOG_FORMAT = env.choice("LOG_FORMAT", "text", LOG_FORMATS)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,  # or the server's own errors would vanish
    "formatters": {
        "line": {
            "()": LOG_FORMATS[LOG_FORMAT],
            "fmt": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.choice("LOG_LEVEL", "INFO", LEVELS)},
    "loggers": {
        # Their messages name addresses and bodies: not for a log at DEBUG.
        name: {"level": "WARNING"}
        for name in ("asyncio", "httpx", "httpcore", "aiohttp", "axes", "daphne", "markdown_it")
    }
    # A wrong Host is somebody else's mistake: the answer says so, a traceback helps nobody.
    | {"django.security.DisallowedHost": {"level": "CRITICAL"}}
    # Django's own handlers would write each line once more, in their own way.
    | {"django": {"handlers": [], "level": "INFO", "propagate": True}},
}
if LOG_FORMAT == "json":
    # uvicorn has set up lines of its own by now. (Its access log stays as it is: off, by choice.)
    LOGGING["loggers"]["uvicorn"] = {"handlers": [], "propagate": True}
SILENCED_SYSTEM_CHECKS = (
    [] if HTTPS else ["security.W004", "security.W008", "security.W012", "security.W016"]
)
