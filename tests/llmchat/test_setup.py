"""manage.py setup: everything ready, and a first administrator whose password is shown once."""

import re
from io import StringIO

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command

from llmchat.management.commands.setup import READABLE, new_password
from providers.models import Configuration

pytestmark = pytest.mark.django_db
GIVEN = "given-marked-9f2c"


@pytest.fixture(autouse=True)
def small_world(settings, tmp_path):
    """Nothing to find, static files of this test's own, and the defaults for the administrator."""
    settings.PROVIDER_KEYS = {}
    settings.OLLAMA_HOST = "http://127.0.0.1:9"
    settings.CONFIGURATIONS_FILE = ""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.DEBUG = True  # static files are served from where they are
    settings.ADMIN_USERNAME = "admin"
    settings.ADMIN_PASSWORD = ""


def setup():
    out, err = StringIO(), StringIO()
    call_command("setup", stdout=out, stderr=err)
    return out.getvalue() + err.getvalue()


def may_log_in(rf, name, password):
    return authenticate(rf.post("/"), username=name, password=password) is not None


def test_the_first_administrator_can_log_in_with_what_was_printed(rf):
    printed = setup()
    ((name, password),) = re.findall(r"user name (\S+), password (\S+)", printed)
    assert may_log_in(rf, name, password)
    assert get_user_model().objects.get().is_superuser
    assert "http://localhost:" in printed


def test_the_password_is_printed_once_and_is_in_no_file(settings):
    (password,) = re.findall(r"password (\S+-\S+)", setup())
    second = setup()
    assert "assword" not in second
    assert get_user_model().objects.count() == 1
    assert password not in get_user_model().objects.get().password
    assert not [file for file in settings.DATA_DIR.rglob("*") if password in file.read_text()]


def test_a_generated_password_is_long_and_readable():
    passwords = {new_password() for _ in range(100)}
    assert len(passwords) == 100
    for password in passwords:
        assert len(password) >= 16
        assert set(password) <= {*READABLE, "-"}


def test_a_given_password_is_used_and_not_printed(rf, settings):
    settings.ADMIN_USERNAME, settings.ADMIN_PASSWORD = "root", GIVEN
    printed = setup()
    assert may_log_in(rf, "root", GIVEN)
    assert GIVEN not in printed
    assert "ADMIN_PASSWORD" in printed
    assert "weak" not in printed


def test_a_weak_given_password_is_used_and_said_to_be_weak(rf, settings):
    settings.ADMIN_PASSWORD = "admin"
    printed = setup()
    assert may_log_in(rf, "admin", "admin")
    assert "ADMIN_PASSWORD is weak" in printed


def test_where_there_is_an_administrator_nothing_is_made(django_user_model, settings):
    django_user_model.objects.create_superuser("grace", password="x")
    settings.ADMIN_PASSWORD = GIVEN
    assert "irst login" not in setup()
    assert django_user_model.objects.count() == 1


def test_a_taken_user_name_is_said(django_user_model):
    django_user_model.objects.create_user("admin")
    with pytest.raises(CommandError, match="ADMIN_USERNAME"):
        setup()
    assert not django_user_model.objects.get().is_superuser


def test_configurations_are_seeded():
    assert "created demo" in setup()
    assert Configuration.objects.get().is_default


def test_a_configurations_file_is_used_instead(settings, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[[configuration]]\nslug = "a"\nname = "A"\nkind = "demo"\nmodel = "demo"\n')
    settings.CONFIGURATIONS_FILE = str(file)
    assert "created a" in setup()
    assert [row.slug for row in Configuration.objects.all()] == ["a"]


def test_a_bad_configurations_file_stops_the_set_up_with_its_reason(settings, tmp_path):
    settings.CONFIGURATIONS_FILE = str(tmp_path / "none.toml")
    with pytest.raises(CommandError, match=r"none\.toml cannot be read"):
        setup()


def test_static_files_are_collected_for_production(settings, tmp_path):
    settings.DEBUG = False
    settings.STATIC_ROOT = tmp_path / "static"
    hashed = {"staticfiles": {"BACKEND": "llmchat.staticfiles.HashedStaticFiles"}}
    settings.STORAGES = settings.STORAGES | hashed
    setup()
    assert (settings.STATIC_ROOT / "staticfiles.json").exists()
