"""llmchat's settings for processes whose memory is measured.

In debug mode every database connection keeps its last 9,000 queries, with whole answers among
them. Without it, pages would need collected static files; so it is on until the storage is chosen.
"""

from llmchat.settings import *  # noqa: F403

DEBUG = False
