from django.apps import AppConfig


class ConversationsConfig(AppConfig):
    name = "conversations"

    def ready(self) -> None:
        from conversations import accounting, audit, metering  # they need the models

        accounting.connect()
        audit.connect()
        metering.connect()
