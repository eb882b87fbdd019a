from django.apps import AppConfig


class ConversationsConfig(AppConfig):
    name = "conversations"

    def ready(self) -> None:
        from conversations import audit, metering  # they need the models

        audit.connect()
        metering.connect()
