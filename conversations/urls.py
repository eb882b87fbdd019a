from django.urls import path

from conversations.api import anthropic, complete, completions, models
from conversations.views import attachments, chats, messages, replays, runs, tokens

urlpatterns = [
    path("", chats.home, name="home"),
    path("chat/", chats.new_chat, name="new_chat"),
    path("chat/stream/", runs.stream, name="stream"),
    path("chat/sidebar/", chats.sidebar, name="sidebar"),
    path("chat/<uuid:session_id>/", chats.chat, name="chat"),
    path("chat/<uuid:session_id>/messages/", messages.send, name="send"),
    path("chat/<uuid:session_id>/stop/", runs.stop_chat, name="stop_chat"),
    path("chat/<uuid:session_id>/rename/", chats.rename_chat, name="rename_chat"),
    path("chat/<uuid:session_id>/delete/", chats.delete_chat, name="delete_chat"),
    path("chat/<uuid:session_id>/context/", chats.chat_context, name="chat_context"),
    path("attachments/", attachments.upload, name="upload"),
    path("attachments/<uuid:attachment_id>/", attachments.attachment, name="attachment"),
    path(
        "attachments/<uuid:attachment_id>/delete/",
        attachments.delete_attachment,
        name="delete_attachment",
    ),
    path("messages/<int:message_id>/raw/", messages.message_raw, name="message_raw"),
    path("messages/<int:message_id>/json/", messages.message_json, name="message_json"),
    path("messages/<int:message_id>/delete/", messages.delete_message, name="delete_message"),
    path("messages/<int:message_id>/retry/", messages.retry, name="retry"),
    path("messages/<int:message_id>/continue/", messages.continue_answer, name="continue"),
    path("runs/<uuid:run_id>/events/", runs.events, name="run_events"),
    path("runs/<uuid:run_id>/stop/", runs.stop, name="stop"),
    path("runs/<uuid:run_id>/result/", runs.result, name="run_result"),
    path("runs/<uuid:run_id>/replay/", replays.replay, name="replay"),
    path("runs/<uuid:run_id>/mismatch/", runs.mismatch, name="run_mismatch"),
    path("accounts/tokens/", tokens.tokens, name="tokens"),
    path("accounts/tokens/<int:token_id>/revoke/", tokens.revoke, name="revoke_token"),
    path("v1/chat/completions", completions.chat_completions, name="chat_completions"),
    path("v1/messages", anthropic.create, name="messages"),
    path("v1/messages/count_tokens", anthropic.count_tokens, name="count_tokens"),
    path("api/v1/llm/complete/stream", complete.complete, name="complete"),
    path("v1/models", models.models, name="models"),
    path("v1/models/<path:slug>", models.model, name="model"),
    path("v1/<path:rest>", models.unknown),
    path("preferences/", chats.preferences, name="preferences"),
]
