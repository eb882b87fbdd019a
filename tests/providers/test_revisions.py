"""Revisions: one for each change, whoever makes it and however; readable, and without a secret."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from conversations.models import Run
from providers import revisions
from providers.models import AnswerSchema, Configuration, ConfigurationRevision
from tests.people import Person

pytestmark = pytest.mark.django_db

KEY = "planted-5d1f7c-key"
HEADER = "planted-header-5d1f7c"
LIST = "admin:providers_configuration_changelist"


@pytest.fixture
def row() -> Configuration:
    made = Configuration(
        name="GPT",
        slug="gpt",
        kind="openai",
        model="m",
        input_price="0.15",
        extra_headers={"X-Team": HEADER},
    )
    made.set_api_key(KEY)
    made.save()
    revisions.record(made)
    return made


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def posted(row: Configuration, **values: str) -> dict[str, str]:
    """What the form sends."""
    return {
        "name": row.name,
        "slug": row.slug,
        "kind": row.kind,
        "model": row.model,
        "base_url": row.base_url,
        "input_price": "0.15",
        "is_active": "on",
        "extra_headers": json.dumps(row.extra_headers),
        "extra_body": "{}",
        **values,
    }


def change(row: Configuration, page: str = "change") -> str:
    return reverse(f"admin:providers_configuration_{page}", args=[row.pk])


def numbers(row: Configuration) -> list[int]:
    return [revision.number for revision in row.revisions.order_by("number")]


def last_changes(row: Configuration) -> dict[str, tuple[str, str]]:
    row.refresh_from_db()
    (revision, changes), *_ = revisions.history(row)
    assert row.revision == revision.number
    return {found.name: (found.before, found.after) for found in changes}


# ---- What is recorded


@pytest.mark.contract("P5")
@pytest.mark.contract("A18")
def test_a_revision_has_all_fields_and_no_secret(row: Configuration):
    fields = row.revisions.get().fields
    left_out = {"id", "created_at", "updated_at", "revision"}
    names = {field.name for field in row._meta.get_fields() if not field.auto_created}
    assert fields.keys() - {revisions.REPLACED} == names - left_out
    assert fields["api_key"] == "set"
    assert fields["extra_headers"] == {"X-Team": "[hidden]"}
    assert fields["input_price"] == "0.15"
    assert "5d1f7c" not in json.dumps(fields)


def test_a_key_in_a_field_where_it_does_not_belong_is_masked(row: Configuration):
    row.extra_body = {"list": [{"token": f"{KEY} and sk-proj-0123456789"}]}
    row.save()
    revisions.record(row)
    assert last_changes(row) == {
        "Extra body": (
            "",
            '{\n  "list": [\n    {\n      "token": "[hidden] and [hidden]"\n    }\n  ]\n}',
        )
    }


def test_without_a_change_there_is_no_revision(row: Configuration):
    row.save()
    assert revisions.record(row) is None
    assert numbers(row) == [1]


def test_a_schema_and_groups_are_named(row: Configuration):
    schema = AnswerSchema.objects.create(name="Answer", slug="an-answer", schema={})
    row.schema = schema
    row.save()
    row.allowed_groups.set([Group.objects.create(name=name) for name in ("b", "a")])
    revisions.record(row)
    assert last_changes(row) == {
        "Answer schema": ("", "an-answer"),
        "Allowed groups": ("", "a, b"),
    }


def test_a_new_key_or_header_value_is_told_as_replaced(row: Configuration):
    row.set_api_key("another-5d1f7c-key")
    row.extra_headers = {"X-Team": "another"}
    row.save()
    revisions.record(row, replaced={"api_key", "extra_headers", "name"})
    assert last_changes(row) == {"API key": ("", "replaced"), "Extra headers": ("", "replaced")}
    assert revisions.record(row) is None  # it is told once


def test_an_older_copy_that_is_saved_late_takes_no_number_twice(row: Configuration):
    late = Configuration.objects.get(pk=row.pk)
    row.name = "New"
    row.save()
    revisions.record(row)
    late.model = "other"
    late.save()  # the whole row, with the number of before
    revisions.record(late)
    assert numbers(row) == [1, 2, 3]
    assert last_changes(row) == {"Name": ("New", "GPT"), "Model": ("m", "other")}


@pytest.mark.django_db(transaction=True)
def test_changes_at_once_get_numbers_of_their_own():
    row = Configuration.objects.create(name="A", slug="a", kind="demo", model="0")

    def work(number: int) -> None:
        try:
            with transaction.atomic():
                Configuration.objects.filter(pk=row.pk).update(model=f"m{number}")
                revisions.record(Configuration.objects.get(pk=row.pk))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert numbers(row) == list(range(1, 9))
    row.refresh_from_db()
    assert row.revision == 8


# ---- Who records


@pytest.mark.contract("P5")
def test_the_form_makes_one_revision_with_the_person(root: Client, row: Configuration):
    answer = root.post(change(row), posted(row, name="New", api_key=f"{KEY}-2", is_default="on"))
    assert answer.status_code == 302
    assert numbers(row) == [1, 2]
    assert last_changes(row) == {
        "Name": ("GPT", "New"),
        "Default": ("no", "yes"),
        "API key": ("", "replaced"),
    }
    latest = row.revisions.get(number=2)
    assert (latest.changed_by_name, latest.slug) == ("root", "gpt")
    assert root.post(change(row), posted(row, name="New", is_default="on")).status_code == 302
    assert numbers(row) == [1, 2]  # nothing was changed


def test_who_loses_the_default_is_changed_too(root: Client, row: Configuration):
    former = Configuration.objects.create(
        name="F", slug="f", kind="demo", model="m", is_default=True
    )
    revisions.record(former)
    root.post(reverse(LIST), {"action": "make_default", "_selected_action": [row.pk]})
    assert last_changes(row) == {"Default": ("no", "yes")}
    assert last_changes(former) == {"Default": ("yes", "no")}


def test_the_actions_of_the_list_make_one_revision_each(root: Client, row: Configuration):
    for action in ("deactivate", "activate", "activate"):
        root.post(reverse(LIST), {"action": action, "_selected_action": [row.pk]})
    assert numbers(row) == [1, 2, 3]
    root.post(reverse(LIST), {"action": "duplicate", "_selected_action": [row.pk]})
    copy = Configuration.objects.get(slug="gpt-copy")
    assert (copy.revision, numbers(copy), numbers(row)) == (1, [1], [1, 2, 3])


def test_a_model_from_the_list_makes_one_revision(root: Client, row: Configuration):
    fields = {"model": "m2", "context_window": "1000"}
    root.post(change(row, "use-model"), fields)
    assert numbers(row) == [1, 2]
    changed = last_changes(row)
    assert (changed["Model"], changed["Context window"]) == (("m", "m2"), ("", "1000"))


def test_seeding_makes_one_revision_for_each_change(tmp_path: Path):
    file = tmp_path / "c.toml"
    table = '[[configuration]]\nslug = "a"\nname = "A"\nkind = "openai"\nmodel = "{}"\n'

    def seed(text: str) -> None:
        file.write_text(text)
        call_command("seed_configurations", file=file, stdout=StringIO())

    seed(table.format("m") + f'api_key = "{KEY}"\nis_default = true\n')
    row = Configuration.objects.get(slug="a")
    assert numbers(row) == [1]
    seed(table.format("m") + f'api_key = "{KEY}"\nis_default = true\n')
    assert numbers(row) == [1]
    seed(table.format("n") + f'api_key = "{KEY}-2"\nis_default = true\n')
    assert numbers(row) == [1, 2]
    assert last_changes(row) == {"Model": ("m", "n"), "API key": ("", "replaced")}
    assert {found.changed_by_name for found in row.revisions.all()} == {""}


def test_those_that_were_there_before_get_a_first_revision(row: Configuration):
    ConfigurationRevision.objects.all().delete()
    Configuration.objects.update(revision=0)
    import_module("providers.migrations.0006_first_revisions").record_first(apps, None)
    row.refresh_from_db()
    assert (row.revision, numbers(row)) == (1, [1])
    assert revisions.record(row) is None


# ---- What becomes of them


@pytest.mark.django_db(transaction=True)
def test_a_run_names_the_revision_that_it_used(ada: Person, demo: Configuration):
    ada.events(ada.ask(ada.new_chat(), "/demo echo a", configuration_id="demo"))
    revisions.record(demo)
    Configuration.objects.filter(pk=demo.pk).update(name="New")
    revisions.record(demo)
    ada.events(ada.ask(ada.new_chat(), "/demo echo b", configuration_id="demo"))
    used = list(Run.objects.order_by("started_at").values_list("configuration_revision", flat=True))
    assert used == [None, 2]
    inspector = ada.get(f"/monitor/runs/{Run.objects.latest('started_at').pk}/")
    assert "<dt>revision</dt><dd>2</dd>" in inspector.text


def test_they_stay_when_the_configuration_goes(row: Configuration):
    row.delete()
    revision = ConfigurationRevision.objects.get()
    assert (revision.configuration, revision.slug, revision.number) == (None, "gpt", 1)


@pytest.mark.contract("A3")
def test_the_page_shows_who_changed_what_escaped(root: Client, row: Configuration):
    row.system_instructions = "<script>alert(1)</script>"
    row.save()
    revisions.record(row, User.objects.get())
    page = root.get(change(row, "revisions")).content.decode()
    assert change(row, "revisions") in root.get(change(row)).content.decode()
    assert "Revision 2" in page
    assert "by root" in page
    assert "System instructions" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "5d1f7c" not in page


@pytest.mark.contract("A10")
def test_the_page_is_for_those_who_may_look_at_the_configuration(
    client: Client, row: Configuration
):
    client.force_login(User.objects.create_user("worker", is_staff=True))
    assert client.get(change(row, "revisions")).status_code == 403
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(change(row, "revisions").replace(str(row.pk), "999999")).status_code == 404
