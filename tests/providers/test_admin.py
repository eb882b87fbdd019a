"""Configurations in the admin: the form, the actions and the questions to the provider."""

import json
import re
import subprocess
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core import serializers
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from providers.fields import EncryptedText
from providers.models import Configuration
from tests.servers.provider import json_answer, send

pytestmark = pytest.mark.django_db
MARKED = "sk-marked-5d1f7c"
LIST = "admin:providers_configuration_changelist"


@pytest.fixture
def row():
    """A stored configuration with a key for gateway.example."""
    made = Configuration(
        name="GPT", slug="gpt", kind="openai", model="m", base_url="https://gateway.example/v1"
    )
    made.set_api_key(MARKED)
    made.save()
    return made


@pytest.fixture
def staff(client, django_user_model):
    """Logs in someone with these permissions for configurations: `staff("view", "change")`."""

    def login(*actions, is_staff=True):
        user = django_user_model.objects.create_user("worker", password="p", is_staff=is_staff)
        codenames = [f"{action}_configuration" for action in actions]
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client.force_login(user)
        return client

    return login


def change(row, page="change"):
    return reverse(f"admin:providers_configuration_{page}", args=[row.pk])


ADD = "admin:providers_configuration_add"


def posted(row=None, **values):
    """What the form sends, as far as it is not empty."""
    fields = {
        "name": "GPT",
        "slug": "gpt",
        "kind": "openai",
        "model": "m",
        "base_url": "",
        "is_active": "on",
        "extra_headers": "{}",
        "extra_body": "{}",
    }
    if row:
        fields |= {"name": row.name, "slug": row.slug, "kind": row.kind, "base_url": row.base_url}
    return {name: value for name, value in {**fields, **values}.items() if value is not None}


def errors(response, field):
    return " ".join(response.context["adminform"].form.errors.get(field, []))


def said(response):
    return [str(message) for message in response.context["messages"]]


class TestTheForm:
    def test_a_configuration_is_added_with_its_key(self, admin_client):
        response = admin_client.post(
            reverse(ADD), posted(api_key=f" {MARKED}\n", extra_body='{"seed": 1}'), follow=True
        )
        assert response.status_code == 200
        row = Configuration.objects.get()
        assert (row.api_key.reveal(), row.extra_body) == (MARKED, {"seed": 1})
        assert row.input_price is None

    @pytest.mark.contract("P7")
    @pytest.mark.parametrize("kind", ["demo", "ollama"])
    def test_a_free_kind_begins_with_prices_of_0_which_the_page_says(self, admin_client, kind):
        admin_client.post(reverse(ADD), posted(kind=kind))
        assert Configuration.objects.get().price_label == "free"
        assert "left empty begin at 0 for" in admin_client.get(reverse(ADD)).text

    def test_prices_that_were_given_stay(self, admin_client):
        admin_client.post(reverse(ADD), posted(kind="ollama", output_price="2"))
        row = Configuration.objects.get()
        assert (row.input_price, row.output_price) == (None, Decimal(2))

    @pytest.mark.contract("P5")
    @pytest.mark.contract("A18")
    def test_the_key_is_never_shown_again_and_empty_keeps_it(self, admin_client, row):
        page = admin_client.get(change(row))
        assert MARKED not in page.text
        assert row.api_key.token not in page.text
        assert "A key is set for gateway.example" in page.text
        admin_client.post(change(row), posted(row, model="n"))
        row.refresh_from_db()
        assert (row.model, row.api_key.reveal()) == ("n", MARKED)

    def test_the_page_says_that_no_key_is_set(self, admin_client):
        assert "No key is set" in admin_client.get(reverse(ADD)).text

    def test_a_new_key_replaces_the_old_one(self, admin_client, row):
        admin_client.post(change(row), posted(row, api_key="sk-new"))
        row.refresh_from_db()
        assert row.api_key.reveal() == "sk-new"

    def test_the_key_can_be_removed(self, admin_client, row):
        admin_client.post(change(row), posted(row, remove_key="on"))
        row.refresh_from_db()
        assert not row.api_key

    def test_a_key_is_not_removed_and_replaced_at_once(self, admin_client, row):
        response = admin_client.post(change(row), posted(row, remove_key="on", api_key="sk-new"))
        assert errors(response, "remove_key")

    @pytest.mark.contract("A18")
    def test_a_key_in_a_refused_form_does_not_come_back(self, admin_client, row):
        response = admin_client.post(change(row), posted(row, api_key=MARKED, kind="nonsense"))
        assert errors(response, "kind")
        assert MARKED not in response.text

    @pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "nul\x00"])
    def test_what_fits_in_no_header_is_no_key(self, admin_client, key):
        assert errors(admin_client.post(reverse(ADD), posted(api_key=key)), "api_key")

    @pytest.mark.contract("P9")
    @pytest.mark.parametrize(
        "values",
        [
            {"base_url": "https://evil.example/v1"},
            {"base_url": "http://gateway.example/v1"},
            {"base_url": "https://gateway.example:8443/v1"},
            {"base_url": "https://gateway.example.evil.example/v1"},
            {"base_url": ""},
            {"base_url": "", "kind": "ollama"},
        ],
    )
    def test_another_host_needs_the_key_again(self, admin_client, row, values):
        response = admin_client.post(change(row), posted(row, **values))
        assert "The key belongs to gateway.example; enter it again for" in errors(
            response, "api_key"
        )
        row.refresh_from_db()
        assert row.base_url == "https://gateway.example/v1"
        admin_client.post(change(row), posted(row, **values, api_key="sk-new"))
        row.refresh_from_db()
        assert row.base_url == values["base_url"]
        assert row.api_key.reveal() == "sk-new"

    @pytest.mark.contract("P9")
    def test_another_kind_with_another_default_host_needs_the_key_again(self, admin_client, row):
        Configuration.objects.update(base_url="")
        row.refresh_from_db()
        response = admin_client.post(change(row), posted(row, kind="ollama"))
        assert "enter it again for http://localhost:11434" in errors(response, "api_key")

    @pytest.mark.contract("P9")
    def test_the_way_over_a_kind_without_a_host_does_not_lose_whose_key_it_is(
        self, admin_client, row
    ):
        response = admin_client.post(change(row), posted(row, kind="demo", base_url=""))
        assert "remove it" in errors(response, "api_key")

    def test_the_same_host_in_other_words_keeps_the_key(self, admin_client, row):
        for same in ("https://GATEWAY.example:443", "https://gateway.example/v1/chat/completions"):
            response = admin_client.post(change(row), posted(row, base_url=same))
            assert response.status_code == 302
        row.refresh_from_db()
        assert row.api_key.reveal() == MARKED

    @pytest.mark.contract("A19")
    def test_a_key_that_can_no_longer_be_decrypted_is_asked_for(self, admin_client, row):
        Configuration.objects.update(api_key=EncryptedText("nonsense"))
        assert "can no longer be decrypted. Enter it again" in admin_client.get(change(row)).text
        assert admin_client.get(reverse(LIST)).status_code == 200

    @pytest.mark.contract("A15")
    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd",
            "gopher://x/",
            "http://user@host/",
            "http://ho\nst/",
            "http://",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://2852039166/",
        ],
    )
    def test_a_bad_base_url_is_a_form_error_and_not_stored(self, admin_client, url):
        response = admin_client.post(reverse(ADD), posted(base_url=url))
        assert errors(response, "base_url")
        assert Configuration.objects.count() == 0

    @pytest.mark.contract("A15")
    def test_the_local_network_can_be_switched_off(self, admin_client, settings):
        settings.ALLOW_PRIVATE_ADDRESSES = False
        response = admin_client.post(reverse(ADD), posted(base_url="http://192.168.1.2/v1"))
        assert "ALLOW_PRIVATE_ADDRESSES" in errors(response, "base_url")

    @pytest.mark.contract("R13")
    @pytest.mark.parametrize("field", ["extra_headers", "extra_body"])
    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "1",
            '"x"',
            "[1]",
            '{"a": "\\u0000"}',
            '{"a": "\\ud800"}',
            '{"a": NaN}',
            '{"a": ' + "9" * 5_000 + "}",
            "[" * 100_000,
            '{"a":' * 5_000 + "1" + "}" * 5_000,
        ],
        ids=range(11),
    )
    def test_json_that_is_no_plain_object_is_a_form_error(self, admin_client, field, text):
        response = admin_client.post(reverse(ADD), posted(**{field: text}))
        assert errors(response, field)
        assert Configuration.objects.count() == 0

    @pytest.mark.parametrize("text", ["", "null", "{}"])
    def test_nothing_means_an_empty_object(self, admin_client, text):
        admin_client.post(reverse(ADD), posted(extra_headers=text, extra_body=text))
        row = Configuration.objects.get()
        assert (row.extra_headers, row.extra_body) == ({}, {})

    @pytest.mark.parametrize(
        "headers", [{"Authorization": "x"}, {"X A": "1"}, {"X": "a\nb"}, {"X": 1}]
    )
    def test_headers_that_are_not_ones_own_are_refused(self, admin_client, headers):
        response = admin_client.post(reverse(ADD), posted(extra_headers=json.dumps(headers)))
        assert errors(response, "extra_headers")

    def test_ticking_default_moves_it_here(self, admin_client, row):
        Configuration.objects.update(is_default=True)
        admin_client.post(reverse(ADD), posted(slug="new", is_default="on"))
        assert [one.slug for one in Configuration.objects.filter(is_default=True)] == ["new"]
        admin_client.post(change(row), posted(row, is_default="on"))
        assert [one.slug for one in Configuration.objects.filter(is_default=True)] == ["gpt"]
        admin_client.post(change(row), posted(row))
        assert not Configuration.objects.filter(is_default=True).exists()

    def test_a_taken_slug_is_a_form_error(self, admin_client, row):
        assert errors(admin_client.post(reverse(ADD), posted()), "slug")

    @pytest.mark.contract("A24")
    def test_fields_that_are_not_offered_are_ignored(self, admin_client, row):
        admin_client.post(
            change(row),
            posted(row, id="99", created_at="2000-01-01", has_key="", token="x", key_origin="y"),
        )
        former, created_at = row.pk, row.created_at
        row.refresh_from_db()
        assert (row.pk, row.created_at) == (former, created_at)


class TestSecrets:
    @pytest.mark.contract("A18")
    def test_a_marked_key_is_nowhere_to_be_found(self, admin_client, settings, provider, caplog):
        caplog.set_level("DEBUG")
        provider.route(*json_answer({"error": {"message": f"bad key {MARKED}"}}, 401))
        add = posted(base_url=provider.url, api_key=MARKED)
        seen = [admin_client.post(reverse(ADD), add, follow=True).text]
        row = Configuration.objects.get()
        second = posted(row, api_key=MARKED, model="n")
        seen.append(admin_client.post(change(row), second, follow=True).text)
        for page in ("test", "models"):
            seen.append(admin_client.post(change(row, page), follow=True).text)
        for page in ("change", "history", "delete"):
            seen.append(admin_client.get(change(row, page)).text)
        seen += [admin_client.get(reverse(LIST)).text, admin_client.get("/admin/").text]
        seen += [entry.get_change_message() + entry.object_repr for entry in LogEntry.objects.all()]
        seen += [repr(row), str(row.api_key), repr(vars(row)), repr(row.target())]
        seen += [serializers.serialize("json", [row]), caplog.text]
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names():
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
                seen.append(repr(cursor.fetchall()))
        assert provider.requests[0].headers["authorization"] == f"Bearer {MARKED}"
        assert not [text for text in seen if MARKED in text]

    @pytest.mark.contract("A18")
    @pytest.mark.django_db(transaction=True)
    def test_neither_a_dump_nor_the_bytes_of_the_database_hold_the_key(self, row, tmp_path):
        call_command("dumpdata", output=str(tmp_path / "dump.json"))
        files = [tmp_path / "dump.json"]
        if connection.vendor == "sqlite":
            database = Path(connection.settings_dict["NAME"])
            files += database.parent.glob(f"{database.name}*")
            assert any(row.api_key.token.encode() in bytes_of(file) for file in files[1:])
        assert not [file for file in files if MARKED.encode() in bytes_of(file)]

    def test_the_history_names_nothing_that_was_not_changed(self, admin_client, row):
        page = admin_client.get(change(row))
        form = page.context["adminform"].form
        shown = {bound.html_name: bound.value() for bound in form}
        fields = {name: value for name, value in shown.items() if value not in (None, False, "")}
        fields |= {"extra_headers": "{}", "extra_body": "{}", "request_method": "POST"}
        fields |= {"request_auth": "bearer", "request_messages": "openai", "response_format": "sse"}
        admin_client.post(change(row), fields)
        assert LogEntry.objects.get().get_change_message() == "No fields changed."

    def test_the_history_says_that_a_key_was_set_and_not_which(self, admin_client):
        admin_client.post(reverse(ADD), posted(api_key=MARKED))
        row = Configuration.objects.get()
        admin_client.post(change(row), posted(row, api_key="sk-new", base_url="https://b.example"))
        newest, first = LogEntry.objects.order_by("-pk")
        assert "API key" in first.get_change_message()
        assert "API key" in newest.get_change_message()
        assert "Base URL" in newest.get_change_message()

    def test_extra_header_values_are_shown_only_to_those_who_may_change_them(self, staff, row):
        row.extra_headers = {"X-Gateway": MARKED}
        row.save()
        client = staff("view")
        page = client.get(change(row)).text
        assert "X-Gateway" in page
        assert MARKED not in page


class TestRights:
    @pytest.mark.contract("A10")
    def test_a_plain_user_gets_nowhere(self, staff, row):
        client = staff("add", "change", "delete", "view", is_staff=False)
        for url in (reverse(LIST), reverse(ADD), change(row)):
            assert client.get(url).status_code == 302
        for page in ("test", "models", "use-model"):
            assert client.post(change(row, page), {"model": "n"}).status_code == 302
        row.refresh_from_db()
        assert row.model == "m"

    @pytest.mark.contract("P9")
    def test_staff_without_the_permission_change_nothing(self, staff, row):
        client = staff("view")
        assert client.get(change(row)).status_code == 200
        assert "Test connection" not in client.get(change(row)).text
        assert client.post(change(row), posted(row, model="n")).status_code == 403
        for page in ("test", "models", "use-model"):
            assert client.post(change(row, page), {"model": "n"}).status_code == 403
        for action in ("activate", "deactivate", "make_default", "duplicate"):
            client.post(reverse(LIST), {"action": action, "_selected_action": [row.pk]})
        row.refresh_from_db()
        assert (row.model, row.is_active, row.is_default) == ("m", True, False)
        assert Configuration.objects.count() == 1

    def test_who_may_change_but_not_add_does_not_duplicate(self, staff, row):
        client = staff("change", "view")
        client.post(reverse(LIST), {"action": "duplicate", "_selected_action": [row.pk]})
        assert Configuration.objects.count() == 1

    def test_a_stranger_is_sent_to_the_login(self, client, row):
        assert client.post(change(row, "test")).status_code == 302

    @pytest.mark.contract("A6")
    def test_questions_are_posts_with_a_token(self, admin_client, admin_user, row):
        from django.test import Client

        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin_user)
        for page in ("test", "models", "use-model"):
            assert admin_client.get(change(row, page)).status_code == 405
            assert strict.post(change(row, page)).status_code == 403

    @pytest.mark.parametrize("pk", ["0", "999", "nonsense", "_5F"])
    def test_an_unknown_configuration_is_not_found(self, admin_client, pk):
        url = reverse("admin:providers_configuration_test", args=[pk])
        assert admin_client.post(url).status_code == 404


class TestTheList:
    def act(self, client, action, *rows):
        return client.post(
            reverse(LIST),
            {"action": action, "_selected_action": [row.pk for row in rows]},
            follow=True,
        )

    def test_it_shows_what_matters_and_searches_it(self, admin_client, row):
        page = admin_client.get(reverse(LIST), {"q": "gateway"}).text
        for text in ("GPT", "gpt", "gateway.example", "price unknown"):
            assert text in page
        for query in ("?kind=openai", "?kind=nonsense", "?is_active__exact=1", "?q=%25_'"):
            assert admin_client.get(reverse(LIST) + query).status_code == 200

    def test_one_query_serves_any_number_of_rows(
        self, admin_client, row, django_assert_max_num_queries
    ):
        for _ in range(20):
            row.duplicate()
        with django_assert_max_num_queries(8):
            admin_client.get(reverse(LIST))

    def test_deactivating_takes_the_default_away_too(self, admin_client, row):
        row.make_default()
        self.act(admin_client, "deactivate", row)
        row.refresh_from_db()
        assert (row.is_active, row.is_default) == (False, False)
        self.act(admin_client, "activate", row)
        row.refresh_from_db()
        assert (row.is_active, row.is_default) == (True, False)

    def test_one_is_made_the_default(self, admin_client, row):
        other = row.duplicate()
        assert "only one can" in str(said(self.act(admin_client, "make_default", row, other)))
        assert "Activate it first" in str(said(self.act(admin_client, "make_default", other)))
        self.act(admin_client, "make_default", row)
        row.refresh_from_db()
        assert row.is_default

    def test_a_duplicate_is_made_with_the_key(self, admin_client, row):
        self.act(admin_client, "duplicate", row)
        assert Configuration.objects.get(slug="gpt-copy").api_key.reveal() == MARKED

    def test_what_actions_did_is_in_the_history(self, admin_client, row):
        for action in ("deactivate", "activate", "make_default", "duplicate"):
            self.act(admin_client, action, row)
        assert LogEntry.objects.count() == 4


class TestQuestions:
    @pytest.fixture
    def asked(self, provider, row):
        """The configuration of `row`, at the provider double."""
        row.base_url = provider.url
        row.save()
        return row

    def models(self, provider, *models):
        provider.route(*json_answer({"data": list(models)}), path="/v1/models")

    @pytest.mark.contract("P6")
    def test_a_good_connection_is_said_with_its_latency(self, admin_client, provider, asked):
        self.models(provider, {"id": "m"})
        page = admin_client.post(change(asked, "test"), follow=True)
        assert re.fullmatch(r"The connection works\. \(\d+\.\d\d s\)", said(page)[0])

    @pytest.mark.contract("A15")
    def test_a_failure_is_a_code_and_our_own_words(self, admin_client, provider, asked):
        provider.route(*json_answer({"error": {"message": f"no {MARKED} <b>x</b>"}}, 401))
        (message,) = said(admin_client.post(change(asked, "test"), follow=True))
        assert message.startswith("API_KEY_INVALID")
        assert MARKED not in message
        assert "<b>" not in message

    def test_an_unknown_model_is_a_warning(self, admin_client, provider, asked):
        self.models(provider, {"id": "other"})
        (message,) = said(admin_client.post(change(asked, "test"), follow=True))
        assert message.startswith("MODEL_NOT_FOUND")

    @pytest.mark.contract("A3")
    def test_the_models_are_listed_and_escaped(self, admin_client, provider, asked):
        self.models(
            provider,
            {"id": "big", "context_length": 128_000},
            {"id": "<script>alert(1)</script>"},
        )
        page = admin_client.post(change(asked, "models")).text
        assert "128000 tokens" in page
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page

    def test_a_provider_without_models_says_what_to_do(self, admin_client, provider, asked):
        self.models(provider)
        assert "Enter the model" in admin_client.post(change(asked, "models")).text

    def test_a_list_that_does_not_come_is_a_code(self, admin_client, provider, asked):
        provider.route(*json_answer({}, 503))
        (message,) = said(admin_client.post(change(asked, "models"), follow=True))
        assert message.startswith("PROVIDER_OVERLOADED")

    @pytest.mark.contract("P6")
    def test_a_model_of_the_list_is_taken_over(self, admin_client, asked):
        admin_client.post(
            change(asked, "use-model"),
            {"model": "n", "context_window": "128000", "input_price": "0.15", "output_price": ""},
        )
        asked.refresh_from_db()
        assert (asked.model, asked.context_window, asked.input_price) == (
            "n",
            128_000,
            Decimal("0.15"),
        )
        assert asked.api_key.reveal() == MARKED
        assert "model" in LogEntry.objects.get().get_change_message().lower()

    @pytest.mark.contract("A24")
    @pytest.mark.parametrize(
        "values",
        [
            {"model": ""},
            {"model": "a\x00"},
            {"model": "x" * 201},
            {"model": "n", "context_window": "-1"},
            {"model": "n", "input_price": "NaN"},
            {"model": "n", "output_price": "-1"},
        ],
    )
    def test_nothing_else_is_taken_over(self, admin_client, asked, values):
        response = admin_client.post(
            change(asked, "use-model"), {**values, "base_url": "https://evil.example"}, follow=True
        )
        assert response.status_code == 200
        former = asked.base_url
        asked.refresh_from_db()
        assert (asked.model, asked.base_url, asked.output_price) == ("m", former, None)

    def test_the_pages_model_buttons_work_as_they_stand(self, admin_client, provider, asked):
        self.models(provider, {"id": "n <1>", "context_length": 5})
        forms = Forms()
        forms.feed(admin_client.post(change(asked, "models")).text)
        (action, values) = next(form for form in forms.found if form[0].endswith("use-model/"))
        admin_client.post(action, values)
        asked.refresh_from_db()
        assert (asked.model, asked.context_window) == ("n <1>", 5)


GEMINI = {
    "kind": "custom",
    "base_url": "https://models.example",
    "request_method": "POST",
    "request_path": "/v1/models/{{model}}:stream?alt=sse",
    "request_auth": "query",
    "request_auth_name": "key",
    "request_messages": "contents",
    "request_body": '{\r\n  "contents": "{{messages}}"\r\n}',
    "response_format": "sse",
    "response_text_path": "candidates.0.content.parts.0.text",
    "response_finish_path": "candidates.0.finishReason",
}


class TestACustomEndpoint:
    def add(self, client, **values):
        return client.post(reverse(ADD), posted(**(GEMINI | values)), follow=True)

    @pytest.mark.contract("P1")
    def test_it_is_described_in_boxes_that_show_what_is_stored(self, admin_client):
        self.add(admin_client)
        row = Configuration.objects.get()
        assert row.request == {
            "method": "POST",
            "path": "/v1/models/{{model}}:stream?alt=sse",
            "auth": "query",
            "auth_name": "key",
            "messages": "contents",
            "body": '{\n  "contents": "{{messages}}"\n}',
        }
        assert row.response == {
            "format": "sse",
            "text_path": "candidates.0.content.parts.0.text",
            "finish_path": "candidates.0.finishReason",
        }
        page = admin_client.get(change(row)).text
        assert 'value="/v1/models/{{model}}:stream?alt=sse"' in page
        assert '<option value="contents" selected>' in page
        assert "&quot;contents&quot;: &quot;{{messages}}&quot;" in page

    def test_what_a_file_declared_as_an_object_is_shown_as_json(self, admin_client):
        row = Configuration.objects.create(
            name="C", slug="c", kind="custom", model="m", base_url="https://h", response={},
            request={"body": {"q": "{{prompt}}", "ü": 1}},
        )  # fmt: skip
        page = admin_client.get(change(row)).text
        assert "&quot;q&quot;: &quot;{{prompt}}&quot;,\n  &quot;ü&quot;: 1" in page

    def test_saving_it_as_it_stands_changes_nothing(self, admin_client):
        self.add(admin_client)
        row = Configuration.objects.get()
        self.add(admin_client, slug="other")
        admin_client.post(change(row), posted(row, **GEMINI))
        (newest, *_) = LogEntry.objects.all()
        assert newest.get_change_message() == "No fields changed."
        former = (row.request, row.response)
        row.refresh_from_db()
        assert (row.request, row.response) == former

    @pytest.mark.contract("R12")
    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("request_body", '{"q": "{{secret}}", "p": "{{prompt}}"}', "{{secret}} is unknown"),
            ("request_body", '{"q": 1}', "nothing would be asked"),
            ("request_body", "{", "no JSON"),
            ("request_path", "v1", "Begin with /"),
            ("request_path", "/v1?token=x", "holds a key"),
            ("request_auth_name", "", "which header"),
            ("request_auth", "basic", "valid choice"),
            ("response_text_path", "", "where the text stands"),
            ("response_text_path", "a..b", "joined by dots"),
            ("response_format", "xml", "valid choice"),
            ("base_url", "", "no address of its own"),
            ("base_url", "http://169.254.169.254/", "link-local"),
        ],
    )
    def test_what_is_wrong_is_said_at_its_box_and_not_stored(
        self, admin_client, field, value, says
    ):
        response = self.add(admin_client, **{field: value})
        assert says in errors(response, field)
        assert Configuration.objects.count() == 0

    def test_what_has_no_meaning_is_not_kept_and_not_complained_about(self, admin_client):
        self.add(admin_client, response_format="text", request_auth="none")
        row = Configuration.objects.get()
        assert row.response == {"format": "text"}
        assert "auth_name" not in row.request

    def test_other_kinds_do_not_look_at_its_boxes(self, admin_client):
        self.add(admin_client, kind="openai", request_body="{", response_text_path="")
        row = Configuration.objects.get()
        assert (row.request, row.response) == ({}, {})

    def test_who_may_only_look_sees_how_it_is_asked(self, staff):
        Configuration.objects.create(
            name="C", slug="c", kind="custom", model="m", base_url="https://h",
            request={"path": "/ask"}, response={"format": "text"},
        )  # fmt: skip
        page = staff("view").get(change(Configuration.objects.get())).text
        assert "/ask" in page

    @pytest.fixture
    def endpoint(self, provider):
        made = Configuration(
            name="C", slug="c", kind="custom", model="m", base_url=provider.url,
            request={"path": "/ask", "auth": "query", "auth_name": "key"},
            response={"format": "sse", "text_path": "delta", "finish_path": "why",
                      "prompt_tokens_path": "in"},
            system_instructions="Be brief.", max_tokens=50,
        )  # fmt: skip
        made.set_api_key(MARKED)
        made.save()
        return made

    @pytest.mark.contract("P6")
    def test_a_test_asks_it_and_shows_what_was_read(self, admin_client, provider, endpoint):
        events = [{"delta": "Hel"}, {"delta": f"lo <b> {MARKED}"}, {"why": "STOP", "in": 5}]
        provider.reply(*(send(f"data: {json.dumps(event)}\n\n") for event in events))
        page = admin_client.post(change(endpoint, "test"), follow=True)
        first, *details = said(page)
        assert re.fullmatch(r"The endpoint answers\. \(\d+\.\d\d s\)", first)
        assert details == [
            "Text: Hello <b> [hidden]",
            "Finish: stop, the endpoint said STOP",
            "Tokens: 5 in, not told out",
        ]
        assert "Hello &lt;b&gt;" in page.text
        asked = provider.wait_for_request().json
        assert [message["role"] for message in asked["messages"]] == ["system", "user"]
        assert asked["max_tokens"] == 50

    @pytest.mark.contract("P6")
    def test_where_no_text_was_found_its_first_lines_are_shown(
        self, admin_client, provider, endpoint
    ):
        said_by_it = f'data: {{"text": "{MARKED}"}}\r\n\r\n' + "data: {}\n\n" * 20
        provider.reply(send(said_by_it))
        first, *details = said(admin_client.post(change(endpoint, "test"), follow=True))
        assert first.startswith("STREAM_INTERRUPTED")
        assert "no text was found" in first
        assert details == ['Line 1: data: {"text": "[hidden]"}'] + [
            f"Line {number}: data: {{}}" for number in range(2, 6)
        ]

    def test_a_long_answer_is_shown_in_part_and_a_key_is_never_cut_in_half(
        self, admin_client, provider, endpoint
    ):
        provider.reply(send("x" * 290 + MARKED + "\n" + "y" * 3_690 + MARKED))
        _, *details = said(admin_client.post(change(endpoint, "test"), follow=True))
        assert details == [f"Line 1: {'x' * 290}[hidden]"]

    @pytest.mark.contract("A15")
    def test_of_a_refusal_only_the_code_is_told(self, admin_client, provider, endpoint):
        provider.reply(*json_answer({"error": {"message": "internal page"}}, 401))
        (message,) = said(admin_client.post(change(endpoint, "test"), follow=True))
        assert message.startswith("API_KEY_INVALID")
        assert "internal" not in message

    def test_it_has_no_list_of_models(self, admin_client, endpoint):
        assert change(endpoint, "models") not in admin_client.get(change(endpoint)).text
        (message,) = said(admin_client.post(change(endpoint, "models"), follow=True))
        assert message.startswith("INVALID_REQUEST")


class Forms(HTMLParser):
    """Forms of a page: their addresses and what their inputs hold."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "form":
            self.found.append((values.get("action", ""), {}))
        elif tag == "input" and self.found and "name" in values:
            self.found[-1][1][values["name"]] = values.get("value", "")


class TestPages:
    @pytest.mark.contract("A5")
    def test_nothing_in_them_is_inline(self, admin_client, provider, row):
        row.base_url = provider.url
        row.save()
        provider.route(*json_answer({"data": [{"id": "m"}]}), path="/v1/models")
        pages = [
            admin_client.get(reverse(LIST)).text,
            admin_client.get(reverse(ADD)).text,
            admin_client.get(change(row)).text,
            admin_client.post(change(row, "models")).text,
        ]
        for page in pages:
            assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", page)
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)

    def test_our_templates_hold_no_script_and_no_style(self):
        folder = Path(__file__).parents[2] / "templates" / "admin"
        for template in folder.rglob("*.html"):
            assert not re.search(r"<script|<style|style=", template.read_text()), template

    def test_the_admin_has_the_sites_name_and_a_way_back(self, admin_client):
        page = admin_client.get("/admin/").text
        assert "llmchat admin" in page
        assert "Back to the chat" in page


def bytes_of(file: Path) -> bytes:
    """What a file holds, read by another process: where one closes a file of an SQLite database,
    all locks that it has on it are gone, and with them the database for this process
    (sqlite.org/howtocorrupt.html, "Posix advisory locks canceled")."""
    return subprocess.run(["cat", str(file)], stdout=subprocess.PIPE, check=True).stdout
