"""Images: taken in, made fit for models, sent with messages, shown to their owner alone."""

import base64
import io
import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.utils import timezone
from PIL import Image

from conversations import attachments, context
from conversations.models import Attachment, Message, Run
from conversations.shortening import shortened
from conversations.views import attachments as uploads
from providers.models import Configuration
from tests.people import Person
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send

RED = (200, 30, 30)


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def drawing(width: int = 60, height: int = 40) -> bytes:
    return file_of(Image.new("RGB", (width, height), RED))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """As hard to compress as a photo can be."""
    data = random.Random(7).randbytes(width * height * len(mode))
    return Image.frombytes(mode, (width, height), data)


def post(person: Person, data: bytes, name: str = "picture.png") -> httpx.Response:
    return person.post("/attachments/", files={"file": (name, data, "image/png")})


def upload(person: Person, data: bytes | None = None, name: str = "picture.png") -> dict[str, Any]:
    answer = post(person, data or drawing(), name)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def image_at(person: Person, told: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(person.get(told["url"]).content))


def parts(provider: Provider, number: int = 1, message: int = -1) -> Any:
    """The content of a message of the request that the provider got."""
    return provider.wait_for_request(number).json["messages"][message]["content"]


def url_of(person: Person, told: dict[str, Any]) -> str:
    """An uploaded image as it stands in a request."""
    data = base64.b64encode(person.get(told["url"]).content).decode()
    return f"data:{told['media_type']};base64,{data}"


# ---- Taking in


def test_an_image_is_taken_in_and_shown_to_its_owner(ada: Person):
    told = upload(ada, drawing(), "Ünï picture.png")
    assert (told["name"], told["media_type"]) == ("Ünï picture.png", "image/png")
    assert (told["width"], told["height"]) == (60, 40)
    answer = ada.get(told["url"])
    assert len(answer.content) == told["size"]
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("inline; filename")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert {"private", "immutable"} <= set(answer.headers["Cache-Control"].split(", "))
    again = ada.get(told["url"], headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_each_format_becomes_one_that_every_model_takes(ada: Person, format: str):
    told = upload(ada, file_of(Image.new("RGB", (30, 20), RED), format), "x")
    expected = "JPEG" if format == "JPEG" else "PNG"
    image = image_at(ada, told)
    assert image.format == expected
    red, green, blue = image.convert("RGB").split()
    assert min(red.tobytes()) > 190
    assert max(green.tobytes() + blue.tobytes()) < 40


def test_a_large_photo_is_made_smaller_and_loses_all_that_is_not_picture(ada: Person):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    exif[0x010F] = "Marked camera"
    photo = file_of(noise(2400, 1200), "JPEG", exif=exif, comment=b"Marked comment")
    assert b"Marked" in photo
    told = upload(ada, photo + b"Marked file behind it", "IMG_1.HEIC.jpg")
    assert (told["width"], told["height"]) == (784, 1568)
    assert told["size"] < len(photo)
    data = ada.get(told["url"]).content
    assert b"Marked" not in data
    assert not Image.open(io.BytesIO(data)).getexif()


def test_a_photo_that_came_as_png_is_kept_as_jpeg_and_a_small_one_with_its_transparency(
    ada: Person,
):
    assert upload(ada, file_of(noise(900, 900, "RGBA")))["media_type"] == "image/jpeg"
    clear = upload(ada, file_of(Image.new("RGBA", (20, 20), (255, 0, 0, 100))))
    assert image_at(ada, clear).mode == "RGBA"


@pytest.mark.parametrize(
    ("mode", "color", "format"),
    [("P", 3, "GIF"), ("LA", (90, 0), "PNG"), ("CMYK", (0, 255, 255, 0), "JPEG"), ("1", 1, "PNG")],
)
def test_unusual_colours_are_made_usual(ada: Person, mode: str, color: Any, format: str):
    told = upload(ada, file_of(Image.new(mode, (9, 9), color), format))
    assert image_at(ada, told).mode in ("L", "RGB", "RGBA")


def test_grey_with_16_bits_keeps_its_grey(ada: Person):
    told = upload(ada, file_of(Image.new("I;16", (9, 9), 0x8000)))
    assert image_at(ada, told).getpixel((4, 4)) == 0x80


def test_of_an_animation_the_first_frame_is_kept(ada: Person):
    frames = [Image.new("RGB", (9, 9), color) for color in (RED, (0, 0, 255))]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image_at(ada, upload(ada, data)).convert("RGB").getpixel((4, 4)) == RED


@pytest.mark.contract("S12")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain words",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%PDF-1.7",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        file_of(Image.new("RGB", (300, 300), RED), "JPEG")[:700],
        file_of(Image.new("RGB", (5, 5)), "BMP"),
    ],
    ids=["nothing", "text", "svg", "pdf", "broken", "cut", "another format"],
)
def test_what_is_no_image_is_refused_whatever_it_is_called(ada: Person, data: bytes):
    answer = post(ada, data, "photo.png")
    assert answer.status_code == 422
    assert "PNG, JPEG, GIF or WebP" in answer.json()["errors"]["file"][0]
    assert not Attachment.objects.exists()


def test_a_small_file_that_unfolds_into_a_huge_image_is_refused(ada: Person):
    bomb = file_of(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    answer = post(ada, bomb)
    assert answer.status_code == 422
    assert "too many pixels" in answer.json()["errors"]["file"][0]


@pytest.mark.contract("S12")
def test_a_file_beyond_the_limit_is_refused_with_what_is_allowed(ada: Person, settings: Any):
    settings.ATTACHMENT_MAX_BYTES = 2048
    answer = post(ada, file_of(noise(60, 60)))
    assert answer.status_code == 413
    assert "2.0" in answer.json()["error"]["message"]
    assert post(ada, drawing()).status_code == 201


@pytest.mark.contract("S12")
def test_who_uploads_too_much_at_a_time_is_asked_to_wait(
    ada: Person, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(uploads, "UPLOADS_PER_USER", 0)
    answer = post(ada, drawing())
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


def test_an_upload_without_a_file_is_refused(ada: Person):
    assert ada.post("/attachments/", json={"file": "x"}).status_code == 422
    assert ada.post("/attachments/", data={"file": "x"}).status_code == 422


@pytest.mark.contract("S12")
def test_an_upload_needs_a_person_and_the_csrf_token(ada: Person, app: Any):
    files = {"file": ("x.png", drawing(), "image/png")}
    assert ada.http.post("/attachments/", files=files).status_code == 403
    ada.post("/accounts/logout/")
    assert post(ada, drawing()).status_code in (401, 403)
    assert not Attachment.objects.exists()


def test_a_name_becomes_one_short_line(ada: Person):
    assert upload(ada, name="../../etc/pass\u202ewd " + "x" * 300)["name"] == "passwd " + "x" * 93


def test_a_strangers_image_is_not_found(ada: Person, make_person: Callable[..., Person]):
    told = upload(ada)
    eve = make_person("eve")
    assert eve.get(told["url"]).status_code == 404
    assert eve.post(f"{told['url']}delete/").status_code == 404
    staff = make_person("staff", is_staff=True)
    assert staff.get(told["url"]).status_code == 404
    assert ada.get(f"/attachments/{uuid4()}/").status_code == 404
    assert ada.get(told["url"]).status_code == 200


def test_an_unsent_image_can_be_deleted_and_goes_by_itself_after_a_day(ada: Person):
    first, second = upload(ada), upload(ada)
    assert ada.post(f"{first['url']}delete/").status_code == 204
    assert ada.get(first["url"]).status_code == 404
    Attachment.objects.update(created_at=timezone.now() - timedelta(days=2))
    third = upload(ada)
    assert ada.get(second["url"]).status_code == 404
    assert ada.get(third["url"]).status_code == 200


def test_of_a_persons_unsent_images_only_the_newest_are_kept(
    ada: Person, make_person: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attachments, "MOST_UNSENT", 2)
    other = upload(make_person("eve"))
    first, *newest = [upload(ada) for _ in range(3)]
    kept = {str(pk) for pk in Attachment.objects.values_list("pk", flat=True)}
    assert kept == {other["id"], *(told["id"] for told in newest)}
    assert first["id"] not in kept


# ---- Sending


def test_what_is_sent_reaches_the_provider_in_order_and_is_shown(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Two pictures."))
    first = upload(ada, drawing(), "first.png")
    second = upload(ada, file_of(noise(90, 50), "JPEG"), "second <b>.jpg")
    chat = ada.new_chat()
    run = ada.ask(chat, "What is this?", attachments=f"{second['id']}, {first['id']}")
    events = ada.events(run)
    assert parts(provider) == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url_of(ada, second)}},
        {"type": "image_url", "image_url": {"url": url_of(ada, first)}},
    ]
    request_data = events[1].data
    assert request_data["full_request_body"] == provider.requests[0].json
    assert [(one["name"], one["sent"]) for one in request_data["attachments"]] == [
        ("second <b>.jpg", True),
        ("first.png", True),
    ]
    page = ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text
    assert page.index(second["url"]) < page.index(first["url"])
    assert 'alt="second &lt;b&gt;.jpg"' in page


def test_a_form_can_send_images_too(ada: Person, openai: Configuration, provider: Provider):
    provider.reply(*openai_answer("ok"))
    told = upload(ada)
    chat = ada.new_chat()
    data = {"prompt": "Look", "attachments": told["id"]}
    answer = ada.post(f"/chat/{chat}/messages/", data=data)
    assert answer.status_code == 201
    assert len(parts(provider)) == 2


@pytest.mark.contract("S4")
def test_an_image_counts_as_many_tokens_as_its_size_makes(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("ok"), model="double-1")
    plain = ada.events(ada.ask(ada.new_chat(), "Look"))[0].data["input_tokens"]
    told = upload(ada, drawing(750, 100))
    chat = ada.new_chat()
    run = ada.ask(chat, "Look", attachments=told["id"])
    assert ada.events(run)[0].data["input_tokens"] == plain + 100
    shown = ada.get(f"/chat/{chat}/context/").json()
    assert shown["input_tokens"] > 100


def test_later_requests_take_earlier_images_along(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("ok"), model="double-1")
    told = upload(ada)
    chat = ada.new_chat()
    ada.events(ada.ask(chat, "Look", attachments=told["id"]))
    events = ada.events(ada.ask(chat, "And now?"))
    assert parts(provider, 2, 0)[1]["image_url"]["url"] == url_of(ada, told)
    assert parts(provider, 2) == "And now?"
    (earlier, _) = events[1].data["context_messages"]
    assert earlier["attachments"][0]["sent"] is True


def test_a_retry_sends_the_images_again(ada: Person, openai: Configuration, provider: Provider):
    provider.route(*openai_answer("ok"), model="double-1")
    told = upload(ada)
    run = ada.ask(ada.new_chat(), "Look", attachments=told["id"])
    ada.events(run)
    again = ada.post(f"/messages/{run['user_message_id']}/retry/", json={}).json()
    ada.events(again)
    assert parts(provider, 2) == parts(provider, 1)


def test_going_on_with_an_answer_sends_the_images_again(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("I see", finish="length"))
    provider.reply(*openai_answer(" a red box."))
    told = upload(ada)
    run = ada.ask(ada.new_chat(), "Look", attachments=told["id"])
    done = ada.events(run)[-1].data
    again = ada.post(f"/messages/{done['assistant_message_id']}/continue/", json={}).json()
    ada.events(again)
    assert parts(provider, 2, 0) == parts(provider, 1)


def test_a_model_that_cannot_see_is_told_the_names_of_earlier_images(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("ok"), model="double-1")
    told = upload(ada, name="cat.png")
    chat = ada.new_chat()
    run = ada.ask(chat, "Look", attachments=told["id"])
    ada.events(run)
    Configuration.objects.update(capabilities=["streaming", "system"])
    events = ada.events(ada.ask(chat, "And now?"))
    assert parts(provider, 2, 0) == "Look\n\n[image: cat.png]"
    assert events[1].data["context_messages"][0]["attachments"][0]["sent"] is False
    ada.post(f"/messages/{run['user_message_id']}/retry/", json={})
    assert parts(provider, 3) == "Look\n\n[image: cat.png]"


# ---- What is refused


@pytest.mark.contract("S12")
def test_an_image_for_a_model_that_cannot_see_is_refused_and_stays_free(
    ada: Person, demo: Configuration
):
    told = upload(ada)
    answer = ada.send(ada.new_chat(), "Look", attachments=told["id"])
    assert answer.status_code == 422
    assert "Demo cannot see images" in answer.json()["errors"]["attachments"][0]
    assert not Message.objects.exists()
    assert Attachment.objects.get().message is None


@pytest.mark.contract("S12")
def test_unknown_foreign_and_sent_images_are_refused(
    ada: Person, openai: Configuration, provider: Provider, make_person: Callable[..., Person]
):
    provider.reply(*openai_answer("ok"))
    chat = ada.new_chat()
    sent, free = upload(ada), upload(ada)
    ada.events(ada.ask(chat, "Look", attachments=sent["id"]))
    foreign = upload(make_person("eve"))
    for wrong in (sent["id"], foreign["id"], str(uuid4()), "x", "1,2", "a" * 5000):
        answer = ada.send(chat, "Look", attachments=f"{free['id']},{wrong}")
        assert answer.status_code == 422, wrong
        assert list(answer.json()["errors"]) == ["attachments"]
    assert Message.objects.filter(role="user").count() == 1
    assert Attachment.objects.get(pk=free["id"]).message is None
    assert len(provider.requests) == 1


@pytest.mark.contract("S12")
@pytest.mark.parametrize("value", [["x"], True, {"id": "x"}])
def test_attachments_that_are_no_text_are_refused(ada: Person, openai: Configuration, value: Any):
    answer = ada.send(ada.new_chat(), "Look", attachments=value)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == ["attachments"]


def test_more_images_than_a_message_may_have_are_refused(
    ada: Person, openai: Configuration, settings: Any
):
    settings.ATTACHMENTS_PER_MESSAGE = 1
    ids = ",".join(upload(ada)["id"] for _ in range(2))
    answer = ada.send(ada.new_chat(), "Look", attachments=ids)
    assert "1 image at most" in answer.json()["errors"]["attachments"][0]


@pytest.mark.contract("S12")
def test_the_page_gets_its_form_back_with_the_error_in_place(ada: Person, demo: Configuration):
    told = upload(ada)
    chat = ada.new_chat()
    data = {"prompt": "Look here", "attachments": told["id"]}
    headers = {"HX-Request": "true", "Accept": "text/html"}
    answer = ada.post(f"/chat/{chat}/messages/", data=data, headers=headers)
    assert answer.status_code == 422
    assert "Demo cannot see images" in answer.text
    assert "Look here" in answer.text
    assert told["id"] in answer.text


@pytest.mark.contract("S11")
def test_the_same_key_sends_the_same_images_once_and_no_others(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    first, second = upload(ada), upload(ada)
    chat = ada.new_chat()
    fields = {"attachments": first["id"], "idempotency_key": "one"}
    run = ada.ask(chat, "Look", **fields)
    ada.events(run)
    repeated = ada.send(chat, "Look", **fields)
    assert repeated.status_code == 200
    assert repeated.json()["run_id"] == run["run_id"]
    for other in (second["id"], ""):
        answer = ada.send(chat, "Look", attachments=other, idempotency_key="one")
        assert answer.status_code == 409
    assert Run.objects.count() == 1


# ---- Their life with the message


@pytest.mark.contract("C5")
def test_a_stop_before_the_first_chunk_gives_the_images_back(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), hang())
    provider.reply(*openai_answer("ok"))
    told = upload(ada)
    chat = ada.new_chat()
    run = ada.ask(chat, "Look", attachments=told["id"])
    provider.wait_for_request()
    Attachment.objects.update(created_at=timezone.now() - timedelta(days=9))
    stopped = ada.stop(run)
    assert stopped["user_message_deleted"] is True
    assert stopped["attachments"] == [told]
    assert ada.events(run)[-1].data["attachments"] == [told]
    upload(ada)  # takes away what is old
    ada.events(ada.ask(chat, "Look again", attachments=told["id"]))
    assert len(parts(provider, 2)) == 2


def test_a_stop_after_the_first_chunk_leaves_them_with_the_message(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("I see")), hang())
    told = upload(ada)
    run = ada.ask(ada.new_chat(), "Look", attachments=told["id"])
    ada.read_until(run, "I see")
    assert "attachments" not in ada.stop(run)
    assert Attachment.objects.get().message_id == run["user_message_id"]


@pytest.mark.parametrize("what", ["message", "session"])
def test_images_go_with_their_message_and_their_session(
    ada: Person, openai: Configuration, provider: Provider, what: str
):
    provider.reply(*openai_answer("ok"))
    told = upload(ada)
    chat = ada.new_chat()
    run = ada.ask(chat, "Look", attachments=told["id"])
    ada.events(run)
    assert ada.post(f"{told['url']}delete/").status_code == 404  # it was sent
    path = f"/messages/{run['user_message_id']}/" if what == "message" else f"/chat/{chat}/"
    assert ada.post(f"{path}delete/").status_code == 204
    assert not Attachment.objects.exists()


# ---- What is shown of it


@pytest.mark.contract("M2")
def test_the_inspector_shows_images_shortened_and_gives_the_exact_body(
    ada: Person, openai: Configuration, provider: Provider, make_person: Callable[..., Person]
):
    provider.reply(*openai_answer("ok"))
    told = upload(ada, file_of(noise(300, 300), "JPEG"), "cat.jpg")
    run = ada.ask(ada.new_chat(), "Look", attachments=told["id"])
    ada.events(run)
    data = url_of(ada, told)
    body = provider.requests[0].body
    page = ada.get(f"/monitor/runs/{run['run_id']}/", headers={"Accept": "text/html"}).text
    assert data[100:200] not in page
    assert f"… {len(data):,} characters" in page
    assert "cat.jpg, 300 × 300" in page
    assert ada.get(f"/monitor/runs/{run['run_id']}/body/").content == body
    curl = ada.get(f"/monitor/runs/{run['run_id']}/body/?as=curl").text
    assert body.decode() in curl
    assert "sk-marked" not in curl
    eve = make_person("eve")
    assert eve.get(f"/monitor/runs/{run['run_id']}/body/").status_code == 404


def test_the_page_does_not_wait_for_images_that_it_does_not_show(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    told = upload(ada, file_of(noise(300, 300), "JPEG"))
    run = ada.ask(ada.new_chat(), "Look", attachments=told["id"])
    exact, shown = ada.events(run)[1], ada.events(run, view="html")[1]
    assert exact.data["full_request_body"] == provider.requests[0].json
    assert shown.id == exact.id
    assert len(json.dumps(shown.data)) < 5_000
    assert shown.data == shortened(exact.data)


def test_only_long_base64_is_shortened():
    words = "many words " * 5_000
    data = "data:image/png;base64," + "Ab3+" * 5_000
    assert shortened({"a": [words, 1, None, data]}) == {
        "a": [words, 1, None, f"{data[:60]}… 20,022 characters"]
    }


# ---- The choice of images


def picture(width: int = 750, height: int = 10) -> context.Picture:
    return context.Picture(uuid4(), "cat.png", width, height)


def question(id: int) -> Any:
    return Message(id=id, role="user", content="Look", tokens=1, created_at=timezone.now())


def selected(branch: list[Any], pictures: dict[int, list[context.Picture]], **given: Any) -> Any:
    options = {"limit": 50, "window": None, "max_tokens": None, **given}
    return context.build(branch, prompt="now", system_instructions="", pictures=pictures, **options)


def test_of_many_images_the_newest_are_sent():
    pictures = {number: [picture() for _ in range(8)] for number in range(1, 5)}
    own = [picture(), picture()]
    found = selected([question(n) for n in pictures], pictures, prompt_pictures=own)
    newest = [one for number in pictures for one in pictures[number]][-18:]
    assert found.seen == {one.id for one in [*newest, *own]}


def test_images_of_a_message_that_does_not_fit_the_window_are_not_sent():
    pictures = {1: [picture(750, 900)], 2: [picture()]}
    found = selected([question(1), question(2)], pictures, window=1_000)
    assert [message.id for message in found.included] == [2]
    assert found.seen == {pictures[2][0].id}
