"""Images in the message box: chosen, pasted, dropped, uploaded, sent, shown and taken back."""

import base64
import io
import re

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from conversations.models import Attachment, Message
from providers.models import Configuration
from tests.browser.chat import Chat
from tests.browser.watch import Watch
from tests.servers.provider import Provider, hang, head, openai_answer

# A paste or a drop as a page sees it: `text` and a file, each if it is not empty.
GIVE = """
(element, [type, text, name, data]) => {
  const given = new DataTransfer();
  if (text) given.setData("text/plain", text);
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  given.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, clipboardData: given, dataTransfer: given };
  const event = type === "paste" ? new ClipboardEvent(type, options) : new DragEvent(type, options);
  return !element.dispatchEvent(event);
}
"""


def drawing(width: int = 320, height: int = 240, color: str = "#3b82c4") -> bytes:
    image = Image.new("RGB", (width, height), color)
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.2, height * 0.2, width * 0.6, height * 0.8), fill="#f4d35e")
    pen.rectangle((width * 0.5, height * 0.5, width * 0.9, height * 0.9), fill="#ee6352")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def payload(name: str = "shapes.png", data: bytes | None = None) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": data or drawing()}


class Tray:
    """The images that go with the next message."""

    def __init__(self, chat: Chat) -> None:
        self.page = chat.page
        self.button = chat.page.get_by_role("button", name="Attach images")
        self.tiles = chat.page.locator("[data-tray] > li")
        self.ready = chat.page.locator("[data-tray] > .is-ready")
        self.note = chat.page.locator("[data-tray-note]")

    def choose(self, *files: FilePayload) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.button.click()
        chooser.value.set_files(list(files))

    def remove(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=f"Remove {name}")


@pytest.fixture
def tray(chat: Chat) -> Tray:
    return Tray(chat)


def is_loaded(image: Locator) -> None:
    expect(image).to_be_visible()
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("(image) => image.naturalWidth") > 0


def give(element: Locator, type: str, text: str = "") -> bool:
    """Whether the page took it, or left it to the browser."""
    data = base64.b64encode(drawing()).decode()
    return bool(element.evaluate(GIVE, [type, text, "given.png", data]))


def sent_images(provider: Provider, number: int = 1) -> list[bytes]:
    content = provider.wait_for_request(number).json["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in content[1:]]
    return [base64.b64decode(url.partition("base64,")[2]) for url in urls]


def test_an_image_is_attached_sent_and_shown(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("favicon")  # a page that is an image has no link to ours
    watch.allow("frame is sandboxed")  # it runs no script, not even one of the test's own tools
    provider.reply(*openai_answer("A yellow disc."))
    tray.choose(payload("first.png"), payload("second.png", drawing(90, 300)))
    expect(tray.ready).to_have_count(2)
    is_loaded(tray.ready.first.locator("img"))
    expect(chat.send_button).to_be_disabled()  # there is no text yet
    chat.ask("What is this?")
    expect(tray.tiles).to_have_count(0)
    shown = chat.questions.get_by_role("link")
    expect(shown).to_have_count(2)
    chat.is_done()
    expect(shown).to_have_count(2)
    is_loaded(shown.first.get_by_role("img", name="first.png"))
    kept = [bytes(one.data) for one in Attachment.objects.order_by("position")]
    assert sent_images(provider) == kept
    chat.reload()
    is_loaded(shown.last.get_by_role("img", name="second.png"))
    with chat.page.expect_popup() as popup:
        shown.first.click()
    expect(popup.value.locator("img")).to_be_visible()


def test_images_can_be_pasted_and_dropped(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider
):
    assert give(chat.box, "paste")
    expect(tray.ready).to_have_count(1)
    # As office programs do it, with a picture of the text.
    assert not give(chat.box, "paste", text="words")
    assert give(chat.page.locator("[data-transcript]"), "dragover")
    expect(chat.page.locator("[data-box]")).to_have_class(re.compile("is-target"))
    assert give(chat.page.locator("[data-transcript]"), "drop")
    expect(tray.ready).to_have_count(2)
    expect(chat.page.locator("[data-box]")).not_to_have_class(re.compile("is-target"))


def test_an_image_that_is_removed_is_gone_from_the_server_too(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    tray.choose(payload("one.png"), payload("two.png"))
    expect(tray.ready).to_have_count(2)
    with chat.page.expect_response("**/delete/"):
        tray.remove("one.png").press("Enter")
    expect(tray.remove("two.png")).to_be_focused()
    with chat.page.expect_response("**/delete/"):
        tray.remove("two.png").press("Enter")
    expect(tray.tiles).to_have_count(0)
    expect(chat.box).to_be_focused()
    assert not Attachment.objects.exists()
    chat.ask("Only words").is_done()
    assert provider.requests[0].json["messages"][-1]["content"] == "Only words"


@pytest.mark.contract("H1")
def test_images_that_were_not_sent_are_still_there_after_a_reload(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider, watch: Watch
):
    provider.reply(*openai_answer("ok"))
    tray.choose(payload("one.png"), payload("two.png"))
    expect(tray.ready).to_have_count(2)
    chat.box.fill("Look")
    Attachment.objects.filter(name="two.png").delete()  # as one is that waited for too long
    watch.allow("404")
    # Not from the browser's cache, as after a day or at another device.
    chat.page.context.new_cdp_session(chat.page).send("Network.clearBrowserCache")
    chat.reload()
    expect(tray.tiles.last).to_contain_text("no longer there")
    expect(tray.ready).to_have_count(1)
    expect(chat.box).to_have_value("Look")
    chat.box.press("Enter")
    chat.is_done()
    assert len(sent_images(provider)) == 1


@pytest.mark.contract("C5")
def test_stopped_before_the_first_text_the_images_come_back(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider
):
    provider.reply(head(), hang())
    provider.reply(*openai_answer("ok"))
    tray.choose(payload())
    expect(tray.ready).to_have_count(1)
    chat.ask("Look")
    provider.wait_for_request()
    expect(tray.tiles).to_have_count(0)
    chat.box.press("Escape")
    expect(chat.box).to_have_value("Look")
    expect(tray.ready).to_have_count(1)
    expect(chat.questions).to_have_count(0)
    chat.box.press("Enter")
    chat.is_done()
    assert len(sent_images(provider, 2)) == 1


def test_a_refused_message_comes_back_with_its_images(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("422")
    provider.reply(*openai_answer("ok"))
    tray.choose(payload())
    expect(tray.ready).to_have_count(1)
    chat.open_parameters()
    chat.parameter("Temperature").fill("9")
    chat.ask("Look")
    expect(chat.parameter("Temperature")).to_have_attribute("aria-invalid", "true")
    expect(tray.ready).to_have_count(1)
    expect(chat.box).to_have_value("Look")
    chat.parameter("Temperature").fill("1")
    chat.box.press("Enter")
    chat.is_done()
    assert len(sent_images(provider)) == 1


def test_a_message_that_got_no_answer_is_sent_again_with_its_images(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("ERR_|Failed to load|htmx:")
    provider.reply(*openai_answer("ok"))
    tray.choose(payload())
    expect(tray.ready).to_have_count(1)
    chat.page.context.set_offline(True)
    chat.ask("Look")
    expect(chat.notice).to_contain_text("cannot be reached")
    expect(tray.ready).to_have_count(1)
    chat.page.context.set_offline(False)
    chat.box.press("Enter")
    chat.is_done()
    assert len(sent_images(provider)) == 1


def test_where_the_model_cannot_see_it_is_said_and_nothing_is_sent(
    chat: Chat, tray: Tray, openai: Configuration, demo: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))

    def choose(name: str) -> None:
        chat.page.get_by_role("button", name=re.compile("^Model")).click()
        chat.page.get_by_role("option", name=name).click()

    chat.reload()
    choose("Double")
    expect(tray.button).to_be_enabled()
    tray.choose(payload())
    expect(tray.ready).to_have_count(1)
    choose("Demo")
    expect(tray.note).to_have_text("Demo cannot see images. Choose another model, or remove them.")
    expect(tray.button).to_have_attribute("title", re.compile("Demo cannot see images"))
    tray.button.click(force=True)
    expect(chat.notice).to_contain_text("Demo cannot see images")
    chat.ask("Look")
    expect(chat.box).to_have_value("Look")
    assert not Message.objects.exists()
    choose("Double")
    expect(tray.note).to_be_hidden()
    chat.box.press("Enter")
    chat.is_done()
    assert len(sent_images(provider)) == 1


def test_a_message_waits_for_an_image_that_is_on_its_way(
    chat: Chat, tray: Tray, provider: Provider
):
    held: list[Route] = []
    chat.page.route("**/attachments/", lambda route: held.append(route))
    with chat.page.expect_request("**/attachments/"):
        tray.choose(payload("slow.png"))
    expect(tray.tiles.get_by_role("progressbar", name="Upload")).to_be_visible()
    expect(tray.tiles).to_contain_text("slow.png")
    chat.box.fill("Look")
    expect(chat.send_button).to_be_disabled()
    chat.box.press("Enter")
    expect(chat.page.locator("[data-prompt-errors]")).to_contain_text("still on its way")
    held[0].continue_()
    expect(tray.ready).to_have_count(1)
    expect(chat.send_button).to_be_enabled()
    expect(chat.page.locator("[data-prompt-errors]")).to_be_empty()


def test_what_cannot_be_attached_is_said_in_its_place_and_does_not_disturb_the_rest(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider, watch: Watch
):
    watch.allow("422")
    provider.reply(*openai_answer("ok"))
    pdf: FilePayload = {"name": "x.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"}
    tray.choose(pdf, payload("broken.png", b"no image"), payload("good.png"))
    expect(tray.ready).to_have_count(1)
    expect(tray.tiles.nth(0)).to_contain_text("Only PNG, JPEG, GIF and WebP")
    expect(tray.tiles.nth(1)).to_contain_text("no image that can be read")
    tray.choose(*[payload() for _ in range(9)])
    expect(chat.notice).to_contain_text("8 images at most")
    expect(tray.ready).to_have_count(8)
    chat.ask("Look").is_done()
    assert len(sent_images(provider)) == 8


def test_an_image_alone_is_no_message(chat: Chat, tray: Tray):
    tray.choose(payload())
    expect(tray.ready).to_have_count(1)
    chat.box.press("Enter")
    expect(chat.page.locator("[data-prompt-errors]")).to_contain_text("Write what to do")
    assert not Message.objects.exists()


@pytest.mark.contract("M2")
def test_the_inspector_shows_that_there_is_an_image_and_copies_all_of_it(
    chat: Chat, tray: Tray, openai: Configuration, provider: Provider
):
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    provider.reply(*openai_answer("ok"))
    image = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(image, "PNG")
    tray.choose(payload("noise.png", image.getvalue()))
    expect(tray.ready).to_have_count(1)
    chat.ask("Look").is_done()
    chat.open_monitor()
    body = chat.inspector.locator('[data-section="body"]')
    expect(body.locator("pre")).to_contain_text(
        re.compile(r"data:image/png;base64,.*… [\d,]+ char")
    )
    assert len(body.locator("pre").inner_text()) < 1_500
    body.get_by_role("button", name="Copy", exact=True).click()
    expect(body.locator(".is-copied")).to_have_text("Copied")
    assert chat.clipboard().encode() == provider.requests[0].body
    prompt = chat.inspector.locator('[data-section="prompt"]')
    prompt.locator("summary").click()
    expect(prompt).to_contain_text("noise.png, 300 × 300, ≈120 tokens")


@pytest.mark.contract("C12")
def test_on_a_phone_images_fit_and_their_buttons_are_as_large_as_a_finger(
    phone: Page, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    chat = Chat(phone).open("/")
    tray = Tray(chat)
    tray.choose(*[payload(f"{number}.png", drawing(900, 300)) for number in range(6)])
    expect(tray.ready).to_have_count(6)
    for button in (tray.button, tray.remove("0.png")):
        place = button.bounding_box()
        assert place
        assert min(place["width"], place["height"]) >= 44
    chat.box.fill("Look")
    chat.send_button.tap()
    chat.is_done()
    is_loaded(chat.questions.get_by_role("img").last)
    wide = phone.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
