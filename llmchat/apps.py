from django.apps import AppConfig


class LlmchatConfig(AppConfig):
    """Holds what belongs to the whole site: set-up and server commands, error pages, help."""

    name = "llmchat"
    verbose_name = "llmchat"
