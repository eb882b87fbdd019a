"""llmchat's settings, with the toy in place of the site."""

from llmchat.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.llmchat.toy.application"
