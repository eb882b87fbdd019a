"""Chats and messages: naming, copying, deleting, keys (C10, C12, H14 to H18, H36)."""

import re

import pytest
from playwright.sync_api import Dialog, expect

from conversations.models import ChatSession, Message
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.browser.watch import Watch
from tests.servers.provider import Provider, openai_answer


@pytest.fixture
def answered(chat: Chat, provider: Provider) -> Chat:
    """A chat with one question and its answer, which may use the clipboard."""
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    provider.reply(*openai_answer(ANSWER))
    chat.ask("How do I print?")
    return chat.is_done()


ANSWER = "Like **this**:\n\n```python\nprint('<hi>')\n\n```\n\n1. one\n2. two"


def confirm(chat: Chat, button: str) -> None:
    dialog = chat.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_be_hidden()


# ---- Titles


@pytest.mark.contract("C10")
@pytest.mark.contract("H14")
def test_a_chat_is_named_by_its_first_words_until_somebody_renames_it(
    answered: Chat, provider: Provider
):
    chat, page = answered, answered.page
    link = chat.chats.get_by_role("link")
    expect(link).to_have_text("How do I print?")
    expect(page).to_have_title("How do I print? · llmchat")
    page.locator("[data-title-edit]").click()
    title = page.get_by_role("textbox", name="Title of this chat")
    expect(title).to_be_focused()
    title.fill("  Printing <b>&amp;</b>  ")
    title.press("Enter")
    for _ in range(2):
        expect(link).to_have_text("Printing <b>&amp;</b>")
        expect(page).to_have_title("Printing <b>&amp;</b> · llmchat")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Printing <b>&amp;</b>")
        chat.reload()
    provider.reply(*openai_answer("more"))
    chat.ask("Something else entirely")
    expect(chat.text).to_have_text("more")
    chat.is_done()
    expect(link).to_have_text("Printing <b>&amp;</b>")


@pytest.mark.contract("H14")
def test_escape_and_a_blank_title_leave_the_name_as_it_was(answered: Chat):
    page = answered.page
    edit = page.locator("[data-title-edit]")
    title = page.get_by_role("textbox", name="Title of this chat")
    for text, key in (("Something else", "Escape"), ("   ", "Enter")):
        edit.click()
        title.fill(text)
        title.press(key)
        expect(title).to_be_hidden()
        expect(page.get_by_role("heading", level=1)).to_contain_text("How do I print?")
    edit.click()
    title.fill("x" * 300)
    assert len(title.input_value()) == 200
    title.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("x" * 200)
    assert ChatSession.objects.get().title == "x" * 200


# ---- Chats


@pytest.mark.contract("C10")
def test_a_new_chat_is_empty_and_an_unused_one_is_used_again(answered: Chat, openai: Configuration):
    chat, page = answered, answered.page
    page.keyboard.press("Control+Shift+O")
    expect(chat.questions).to_have_count(0)
    expect(chat.ready().box).to_be_focused()
    expect(page.locator("[data-welcome]")).to_be_visible()
    url = page.url
    with page.expect_navigation():
        page.get_by_role("button", name="New chat", exact=True).click()
    assert page.url == url
    expect(chat.chats.get_by_role("link")).to_have_text(["New chat", "How do I print?"])
    chat.chats.get_by_role("link", name="How do I print?").click()
    expect(chat.questions).to_have_count(1)


@pytest.mark.contract("C10")
def test_a_chat_is_deleted_only_after_a_confirmation(answered: Chat, provider: Provider):
    chat, page = answered, answered.page
    page.get_by_role("button", name="New chat", exact=True).click()
    expect(chat.questions).to_have_count(0)
    provider.reply(*openai_answer("fine"))
    chat.ready().ask("The second one")
    chat.is_done()
    links = chat.chats.get_by_role("link")
    expect(links).to_have_text(["The second one", "How do I print?"])

    links.last.hover()
    page.get_by_role("button", name="Delete How do I print?").click()
    confirm(chat, "Cancel")
    expect(links).to_have_count(2)
    page.get_by_role("button", name="Delete How do I print?").click()
    confirm(chat, "Delete")
    expect(links).to_have_text(["The second one"])
    expect(chat.text).to_have_text("fine")

    links.hover()
    page.get_by_role("button", name="Delete The second one").click()
    confirm(chat, "Delete")
    expect(chat.questions).to_have_count(0)
    expect(chat.ready().chats.get_by_role("link")).to_have_text(["New chat"])
    assert not Message.objects.exists()


# ---- Messages


@pytest.mark.contract("H18")
@pytest.mark.contract("C10")
def test_an_answer_is_copied_as_markdown_and_shown_raw(answered: Chat, watch: Watch):
    watch.allow("favicon.ico")  # a page of plain text names no icon of its own
    chat, page = answered, answered.page
    copy = chat.answer.get_by_role("button", name="Copy the answer as Markdown")
    copy.click()
    expect(chat.answer.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.clipboard() == ANSWER
    expect(copy).to_be_visible()
    page.evaluate("() => navigator.clipboard.writeText('')")
    page.keyboard.press("Control+Shift+C")
    expect(chat.answer.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.clipboard() == ANSWER
    chat.questions.hover()
    chat.questions.get_by_role("button", name="Copy your message").click()
    expect(chat.questions.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.clipboard() == "How do I print?"
    with page.context.expect_page() as opened:
        chat.answer.get_by_role("link", name="Show the raw text in a new tab").click()
    assert opened.value.locator("body").inner_text() == ANSWER


@pytest.mark.contract("H17")
@pytest.mark.contract("H16")
def test_a_block_of_code_has_its_language_and_is_copied_alone(answered: Chat):
    chat, page = answered, answered.page
    code = chat.answer.locator(".code-block")
    expect(code.locator(".code-lang")).to_have_text("python")
    code.get_by_role("button", name="Copy").click()
    expect(code.get_by_role("button")).to_have_text("Copied")
    assert chat.clipboard() == "print('<hi>')\n"
    expect(code.get_by_role("button")).to_have_text("Copy")
    page.evaluate("() => navigator.clipboard.writeText('')")
    page.keyboard.press("Control+Shift+;")
    expect(code.get_by_role("button")).to_have_text("Copied")
    assert chat.clipboard() == "print('<hi>')\n"


@pytest.mark.contract("C10")
def test_a_deleted_message_is_gone_and_no_longer_sent(answered: Chat, provider: Provider):
    chat, page = answered, answered.page
    line = page.locator("[data-context-line]")
    expect(line).to_contain_text("Sends 2 earlier messages")
    delete = chat.answer.get_by_role("button", name="Delete the answer")
    delete.click()
    confirm(chat, "Cancel")
    expect(chat.answers).to_have_count(1)
    delete.click()
    confirm(chat, "Delete")
    expect(chat.answers).to_have_count(0)
    expect(chat.questions).to_have_count(1)
    expect(line).to_contain_text("Sends 1 earlier message ")
    chat.reload()
    expect(chat.answers).to_have_count(0)
    provider.reply(*openai_answer("ok"))
    chat.ask("next")
    expect(chat.text).to_have_text("ok")
    chat.is_done()
    sent = provider.wait_for_request(2).json["messages"]
    assert [message["content"] for message in sent] == ["How do I print?", "next"]


# ---- Keys


@pytest.mark.contract("C12")
@pytest.mark.contract("H15")
def test_the_list_of_shortcuts_opens_by_key_and_all_that_it_names_works(chat: Chat):
    page = chat.page
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    chat.box.press("?")
    expect(dialog).to_be_hidden()
    expect(chat.box).to_have_value("?")
    page.keyboard.press("Control+/")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("New chat")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("region", name="Conversation").focus()
    page.keyboard.press("?")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    page.keyboard.press("Shift+Escape")
    expect(chat.box).to_be_focused()
    sidebar = page.get_by_role("complementary", name="Chats")
    page.keyboard.press("Control+Shift+S")
    expect(sidebar).to_be_hidden()
    page.keyboard.press("Control+Shift+S")
    expect(sidebar).to_be_visible()


@pytest.mark.contract("H36")
def test_everything_is_reached_by_tab_and_what_has_the_focus_is_seen(answered: Chat):
    page = answered.page
    page.evaluate("() => document.activeElement.blur()")
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, is_seen = page.evaluate(LOOK_AT_FOCUS)
        if name == "BODY":
            continue  # round the end
        if seen and name == seen[0]:
            break
        assert is_seen, f"nothing shows that {name} has the focus"
        seen.append(name)
    said = "\n".join(seen)
    for wanted in (
        "Skip to the content",
        "New chat",
        "How do I print?",
        "Account and settings",
        "rename",
        "Model:",
        "Monitor",
        "Message",
        "Parameters",
        "Details",
    ):
        assert wanted in said, f"{wanted} is not reached: {said}"


# Its own outline, or a shadow around it or around the box that it fills.
LOOK_AT_FOCUS = """() => {
  const element = document.activeElement;
  if (element === document.body) return ["BODY", false];
  const name = element.getAttribute("aria-label") || element.labels?.[0]?.textContent
    || element.textContent.trim() || element.tagName;
  const box = element.getBoundingClientRect();
  const marked = [element, element.closest(".box, .picker-search")].filter(Boolean).some((e) => {
    const style = getComputedStyle(e);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0)
      || style.boxShadow !== "none";
  });
  return [name.slice(0, 60), marked && box.width > 0 && box.height > 0];
}"""


@pytest.mark.contract("C12")
@pytest.mark.contract("H36")
def test_a_screen_reader_hears_the_answer_politely_and_once(answered: Chat):
    region = answered.page.get_by_role("log", name="Answer as it is written")
    expect(region).to_have_attribute("aria-live", "polite")
    expect(region.locator("p")).to_have_text(
        [
            "Like this:",
            "python print('<hi>')",
            re.compile("one two"),
            "Answer complete.",
        ]
    )
    # The transcript itself changes with every chunk: it must not be live, too.
    assert answered.text.evaluate("node => !node.closest('[aria-live]')")


def test_a_confirmation_is_our_own_and_not_the_browsers(answered: Chat):
    opened: list[Dialog] = []
    answered.page.on("dialog", lambda dialog: opened.append(dialog))
    answered.answer.get_by_role("button", name="Delete the answer").click()
    dialog = answered.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete this answer?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    answered.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(answered.answers).to_have_count(1)
    assert not opened
