"""OpenAI's own Python client, unchanged, against the real server (contract A1)."""

import openai as openai_package
import pytest
from django.contrib.auth.models import User

from conversations.models import Run, UsageLog
from providers.models import Configuration
from tests.servers.provider import Provider, openai_answer

QUESTION = [{"role": "user", "content": "hello"}]


@pytest.mark.contract("A1")
def test_the_client_gets_an_answer_in_one_piece(
    client: openai_package.OpenAI, openai: Configuration, provider: Provider, user: User
):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"], usage=(11, 7)))
    answer = client.chat.completions.create(model="double", messages=QUESTION)
    (choice,) = answer.choices
    assert choice.message.content == "Hello there"
    assert choice.message.reasoning_content == "hm"
    assert choice.finish_reason == "stop"
    assert answer.model == "double"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 7)
    assert answer.usage.total_tokens == 18
    run = Run.objects.get()
    assert (run.origin, run.user, run.status) == ("api", user, "done")
    assert answer._request_id == str(run.pk)
    assert UsageLog.objects.get().origin == "api"


@pytest.mark.contract("A1")
def test_the_client_gets_an_answer_as_a_stream(
    client: openai_package.OpenAI, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    stream = client.chat.completions.create(
        model="double",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "Hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 18
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
