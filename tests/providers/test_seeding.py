"""manage.py seed_configurations (contract P8)."""

from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from providers.adapters.base import ChatMessage, Parameters
from providers.fields import EncryptedText
from providers.models import Configuration
from providers.seeding import KNOWN_KEYS, _ollama_address
from tests.servers.provider import json_answer

pytestmark = pytest.mark.django_db
MARKED = "sk-marked-5d1f7c"


@pytest.fixture(autouse=True)
def nothing_to_find(settings):
    """No key in the environment, and nobody where Ollama would be."""
    settings.PROVIDER_KEYS = {}
    settings.OLLAMA_HOST = "http://127.0.0.1:9"


@pytest.fixture
def ollama(provider, settings):
    """An Ollama with two models."""
    settings.OLLAMA_HOST = provider.url
    names = [{"name": "llama3.2:3b"}, {"name": "qwen3:latest"}]
    provider.route(*json_answer({"models": names}), path="/api/tags")
    about = {"general.architecture": "llama", "llama.context_length": 4096}
    provider.route(*json_answer({"model_info": about}), path="/api/show")
    return provider


def seed(**options):
    out = StringIO()
    call_command("seed_configurations", stdout=out, **options)
    return out.getvalue().splitlines()


def get(slug):
    return Configuration.objects.get(slug=slug)


class TestWhatIsFound:
    @pytest.mark.contract("P8")
    def test_the_demo_is_always_made_free_and_the_default(self):
        assert "created demo" in seed()
        demo = get("demo")
        assert (demo.kind, demo.name, demo.is_default, demo.price_label) == (
            "demo",
            "Demo",
            True,
            "free",
        )

    @pytest.mark.contract("P8")
    def test_a_second_time_changes_nothing(self, settings, ollama):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": MARKED}
        seed()
        before = list(Configuration.objects.values())
        assert {line.split()[0] for line in seed()} == {"unchanged"}
        assert list(Configuration.objects.values()) == before

    def test_what_an_administrator_made_of_one_stays(self):
        seed()
        Configuration.objects.filter(slug="demo").update(name="Try me", is_active=False)
        seed()
        assert (get("demo").name, get("demo").is_active) == ("Try me", False)

    def test_the_demo_is_not_the_default_where_another_one_is(self):
        Configuration.objects.create(
            name="Mine", slug="mine", kind="demo", model="demo", is_default=True
        )
        seed()
        assert not get("demo").is_default

    def test_a_key_in_the_environment_makes_a_configuration_with_prices(self, settings):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": MARKED}
        lines = seed()
        assert "created openai" in lines
        assert MARKED not in str(lines)
        row = get("openai")
        assert (row.model, row.context_window, row.api_key.reveal()) == (
            "gpt-4o-mini",
            128_000,
            MARKED,
        )
        assert (row.input_price, row.cached_input_price, row.output_price) == (
            Decimal("0.15"),
            Decimal("0.075"),
            Decimal("0.60"),
        )

    @pytest.mark.contract("P8")
    @pytest.mark.parametrize(
        ("variable", "slug", "model", "address"),
        [
            ("OPENROUTER_API_KEY", "openrouter", "openrouter/auto", "https://openrouter.ai/"),
            ("ANTHROPIC_API_KEY", "anthropic", "claude-sonnet-4-5", "https://api.anthropic.com/"),
            (
                "AIREFINERY_API_KEY",
                "airefinery",
                "openai/gpt-oss-120b",
                "https://api.airefinery.accenture.com/",
            ),
        ],
    )
    def test_each_key_in_the_environment_makes_its_own_configuration(
        self, settings, variable, slug, model, address
    ):
        settings.PROVIDER_KEYS = {variable: MARKED}
        assert f"created {slug}" in seed()
        row = get(slug)
        assert (row.kind, row.model, row.base_url) == (slug, model, "")
        assert (row.is_active, row.is_default, row.api_key.reveal()) == (True, False, MARKED)
        adapter = row.adapter_class(row.target())
        request = adapter.request([ChatMessage("user", "hi")], row.default_parameters)
        assert request.url.startswith(address)
        assert any(MARKED in value for value in request.headers.values())
        assert f"unchanged {slug}" in seed()

    @pytest.mark.contract("P7")
    def test_a_price_that_nobody_told_is_unknown_and_not_free(self, settings):
        settings.PROVIDER_KEYS = {"OPENROUTER_API_KEY": MARKED, "AIREFINERY_API_KEY": MARKED}
        seed()
        labels = {get(slug).price_label for slug in ("openrouter", "airefinery")}
        assert labels == {"price unknown"}

    def test_all_keys_together_make_one_configuration_each(self, settings):
        settings.PROVIDER_KEYS = dict.fromkeys(KNOWN_KEYS, MARKED)
        seed()
        slugs = set(Configuration.objects.values_list("slug", flat=True))
        assert slugs == {"demo", "openai", "openrouter", "anthropic", "airefinery"}

    def test_a_replaced_key_in_the_environment_is_taken_over(self, settings):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": "sk-old"}
        seed()
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": "sk-new"}
        assert "updated openai" in seed()
        assert get("openai").api_key.reveal() == "sk-new"

    @pytest.mark.contract("P9")
    def test_a_key_in_the_environment_never_goes_to_another_host(self, settings):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": "sk-old"}
        seed()
        Configuration.objects.filter(slug="openai").update(base_url="https://evil.example/v1")
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": MARKED}
        assert "unchanged openai" in seed()
        assert get("openai").api_key.reveal() == "sk-old"

    @pytest.mark.contract("A19")
    def test_a_key_that_became_unreadable_comes_back_from_the_environment(self, settings):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": MARKED}
        seed()
        Configuration.objects.update(api_key=EncryptedText("nonsense"))
        seed()
        assert get("openai").api_key.reveal() == MARKED

    def test_a_variable_that_holds_no_key_is_said_and_not_used(self, settings):
        settings.PROVIDER_KEYS = {"OPENAI_API_KEY": "sk two words"}
        assert any(line.startswith("OPENAI_API_KEY is not used") for line in seed())
        assert not Configuration.objects.filter(slug="openai").exists()

    def test_the_models_of_a_reachable_ollama_are_made_with_their_windows(self, ollama):
        lines = seed()
        assert "created ollama-llama3-2-3b" in lines
        row = get("ollama-qwen3")
        assert (row.model, row.context_window, row.price_label, row.base_url) == (
            "qwen3:latest",
            4096,
            "free",
            ollama.url,
        )

    def test_an_ollama_that_is_not_there_is_no_failure(self):
        assert seed()[-1] == "created demo"

    @pytest.mark.contract("A15")
    def test_an_ollama_host_that_is_never_used_is_said_and_not_asked(self, settings):
        settings.OLLAMA_HOST = "http://169.254.169.254"
        assert any(line.startswith("OLLAMA_HOST is not used") for line in seed())

    def test_a_model_that_cannot_be_stored_hides_none_of_the_others(self, provider, settings):
        settings.OLLAMA_HOST = provider.url
        models = [{"name": "x" * 300}, {"name": "good"}]
        provider.route(*json_answer({"models": models}), path="/api/tags")
        lines = seed()
        assert "created ollama-good" in lines
        assert any(line.startswith("left out") for line in lines)

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("http://localhost:11434", "http://localhost:11434"),
            ("http://localhost:11434/", "http://localhost:11434"),
            ("localhost", "http://localhost:11434"),
            ("0.0.0.0", "http://localhost:11434"),
            ("0.0.0.0:11435", "http://localhost:11435"),
            (":11435", "http://localhost:11435"),
            ("[::]:11434", "http://localhost:11434"),
            ("192.168.1.9:1", "http://192.168.1.9:1"),
            ("https://ollama.example/api", "https://ollama.example/api"),
        ],
    )
    def test_ollama_host_is_read_as_ollama_reads_it(self, host, address):
        assert _ollama_address(host) == address


GOOD = """
[[configuration]]
slug = "gpt"
name = "GPT"
kind = "openai"
model = "gpt-x"
base_url = "https://gateway.example/v1"
api_key = "sk-marked-5d1f7c"
system_instructions = "Be brief."
context_window = 1000
is_default = true
connect_timeout = 3
parameters = {temperature = 0.7, top_p = 1, max_tokens = 100, context_limit = 5}
prices = {input = 0.1, cached_input = 0.025, output = 1}
extra_headers = {X-Team = "a"}
extra_body = {seed = 3, penalty = 0.5}

[[configuration]]
slug = "local"
name = "Local"
kind = "ollama"
model = "llama3"
is_active = false
"""


class TestAFile:
    @pytest.fixture
    def file(self, tmp_path):
        def write(text):
            path = tmp_path / "configurations.toml"
            path.write_text(text)
            return path

        return write

    @pytest.mark.contract("P8")
    def test_a_file_declares_all_there_is_to_say(self, file):
        assert seed(file=file(GOOD)) == ["created gpt", "created local"]
        row = get("gpt")
        assert row.api_key.reveal() == MARKED
        assert (row.temperature, row.top_p, row.max_tokens, row.context_limit) == (0.7, 1, 100, 5)
        assert (row.input_price, row.cached_input_price, row.output_price) == (
            Decimal("0.1"),
            Decimal("0.025"),
            Decimal(1),
        )
        assert (row.is_default, row.connect_timeout, row.context_window) == (True, 3, 1000)
        assert (row.extra_headers, row.extra_body) == ({"X-Team": "a"}, {"seed": 3, "penalty": 0.5})
        assert (get("local").is_active, get("local").price_label) == (False, "free")
        assert not Configuration.objects.filter(slug="demo").exists()

    @pytest.mark.contract("P8")
    def test_a_file_declares_how_a_custom_endpoint_is_asked_and_read(self, file):
        text = """
            [[configuration]]
            slug = "own"
            name = "Own"
            kind = "custom"
            model = "m"
            base_url = "http://127.0.0.1:8001/ask"
            request = {body = {prompt = "{{prompt}}", top_k = 40, bias = 0.5}}
            response = {format = "ndjson", text_path = "out.text"}
        """
        assert seed(file=file(text)) == ["created own"]
        row = get("own")
        request = row.adapter_class(row.target()).request([ChatMessage("user", "hi")], Parameters())
        assert request.body == {"prompt": "hi", "top_k": 40, "bias": 0.5}
        assert row.response == {"format": "ndjson", "text_path": "out.text"}
        assert seed(file=file(text)) == ["unchanged own"]
        broken = text.replace("ndjson", "telepathy")
        with pytest.raises(CommandError, match=r"configuration own: response: "):
            seed(file=file(broken))

    @pytest.mark.contract("P8")
    def test_a_file_declares_a_local_server_which_is_free_and_needs_no_key(self, file):
        text = """
            [[configuration]]
            slug = "home"
            name = "Home"
            kind = "local"
            model = "qwen3"
            base_url = "http://127.0.0.1:1234"
        """
        assert seed(file=file(text)) == ["created home"]
        assert (get("home").price_label, get("home").adapter_class.needs_key) == ("free", False)

    @pytest.mark.contract("P8")
    def test_run_again_it_updates_by_slug(self, file):
        seed(file=file(GOOD))
        assert seed(file=file(GOOD)) == ["unchanged gpt", "unchanged local"]
        assert seed(file=file(GOOD.replace("gpt-x", "gpt-y"))) == ["updated gpt", "unchanged local"]
        assert get("gpt").model == "gpt-y"
        assert Configuration.objects.count() == 2

    def test_a_file_moves_the_default_and_deletes_nothing(self, file):
        seed()
        seed(file=file(GOOD))
        assert [row.slug for row in Configuration.objects.filter(is_default=True)] == ["gpt"]
        assert get("demo")

    def test_what_the_file_does_not_name_stays(self, file):
        seed(file=file(GOOD))
        short = '[[configuration]]\nslug = "gpt"\nname = "New"\n'
        assert seed(file=file(short)) == ["updated gpt"]
        row = get("gpt")
        assert (row.name, row.model, row.api_key.reveal()) == ("New", "gpt-x", MARKED)

    def test_the_key_may_stand_in_the_environment(self, file, settings):
        settings.READ_API_KEY = {"TEAM_KEY": f" {MARKED}\n"}.get
        text = GOOD.replace('api_key = "sk-marked-5d1f7c"', 'api_key_env = "TEAM_KEY"')
        seed(file=file(text))
        assert get("gpt").api_key.reveal() == MARKED

    def test_an_empty_key_removes_the_stored_one(self, file):
        seed(file=file(GOOD))
        seed(file=file(GOOD.replace(MARKED, "")))
        assert not get("gpt").api_key

    @pytest.mark.contract("P9")
    def test_another_host_needs_the_key_again(self, file):
        seed(file=file(GOOD))
        moved = GOOD.replace("gateway.example", "other.example")
        keyless = moved.replace(f'api_key = "{MARKED}"', "")
        with pytest.raises(CommandError, match=r"gpt: api_key: .*gateway\.example.*other\.example"):
            seed(file=file(keyless))
        assert get("gpt").host == "gateway.example"
        seed(file=file(moved))
        assert get("gpt").host == "other.example"

    @pytest.mark.parametrize(
        ("old", "new", "table", "field"),
        [
            ('slug = "local"', "", "configuration 2", "slug"),
            ('slug = "local"', "slug = 3", "configuration 2", "slug"),
            ('slug = "local"', 'slug = "gpt"', "configuration gpt", "slug"),
            ('slug = "local"', 'slug = "lo cal"', "configuration lo cal", "slug"),
            ('name = "Local"', "", "configuration local", "name"),
            ('name = "Local"', 'name = ""', "configuration local", "name"),
            ('name = "Local"', "name = 1", "configuration local", "name"),
            ('name = "Local"', 'name = "a\\u0000b"', "configuration local", "name"),
            ('kind = "ollama"', 'kind = "nonsense"', "configuration local", "kind"),
            ('kind = "ollama"', "", "configuration local", "kind"),
            ('model = "llama3"', "", "configuration local", "model"),
            ("is_active = false", 'is_active = "no"', "configuration local", "is_active"),
            ("is_active = false", "is_active = 0", "configuration local", "is_active"),
            ("is_active = false", "is_default = 1", "configuration local", "is_default"),
            ("is_active = false", "is_default = true", "configuration local", "is_default"),
            ("is_active = false", "colour = 1", "configuration local", "colour"),
            ("is_active = false", 'api_key_env = "NO_KEY"', "configuration local", "api_key_env"),
            ("is_active = false", 'api_key = "a b"', "configuration local", "api_key"),
            ("is_active = false", 'base_url = "file:///x"', "configuration local", "base_url"),
            ("is_active = false", 'base_url = "http://169.254.169.254"', "local", "base_url"),
            ("is_active = false", "request = {a = 1}", "configuration local", "request"),
            ("is_active = false", "extra_body = [1]", "configuration local", "extra_body"),
            ("is_active = false", "extra_body = {a = nan}", "configuration local", "extra_body"),
            ("is_active = false", "extra_body = {a = 2026-01-01}", "local", "extra_body"),
            ("is_active = false", "extra_headers = {Host = 'x'}", "local", "extra_headers"),
            ("is_active = false", "parameters = 1", "configuration local", "parameters"),
            ("temperature = 0.7", "temperature = 3", "configuration gpt", "parameters.temperature"),
            ("temperature = 0.7", "temperature = nan", "gpt", "parameters.temperature"),
            ("temperature = 0.7", "temperature = true", "gpt", "parameters.temperature"),
            ("temperature = 0.7", "warmth = 3", "configuration gpt", "parameters.warmth"),
            ("max_tokens = 100", "max_tokens = 1.5", "gpt", "parameters.max_tokens"),
            ("output = 1}", "output = -1}", "configuration gpt", "prices.output"),
            ("output = 1}", "output = inf}", "configuration gpt", "prices.output"),
            ("output = 1}", 'output = "1"}', "configuration gpt", "prices.output"),
            ("output = 1}", "output = 0.0000001}", "configuration gpt", "prices.output"),
            ("output = 1}", "outputs = 1}", "configuration gpt", "prices.outputs"),
            ("context_window = 1000", "context_window = -1", "gpt", "context_window"),
            (
                "context_window = 1000",
                "context_window = 99999999999999999999",
                "gpt",
                "context_window",
            ),
        ],
    )
    def test_a_bad_table_is_named_with_its_field_and_nothing_is_stored(
        self, file, old, new, table, field
    ):
        assert old in GOOD
        with pytest.raises(CommandError) as caught:
            seed(file=file(GOOD.replace(old, new, 1)))
        assert table in str(caught.value)
        assert f": {field}: " in str(caught.value)
        assert MARKED not in str(caught.value)
        assert Configuration.objects.count() == 0

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x = 1",
            "configuration = 1",
            "configuration = [1]",
            "[configuration]\nslug = 'a'",
            "[[configuration]",
            "[[configuration]]\nslug = 'a'\nslug = 'b'",
            "[[configuration]]\nslug = " + "[" * 5_000,
            "[[configuration]]\ncontext_window = " + "9" * 5_000,
            GOOD + "[other]\n",
        ],
    )
    def test_what_is_no_file_of_configurations_is_said_and_not_stored(self, file, text):
        with pytest.raises(CommandError, match=r"configurations\.toml"):
            seed(file=file(text))
        assert Configuration.objects.count() == 0

    def test_a_file_that_is_not_there_or_not_text_is_said(self, tmp_path):
        with pytest.raises(CommandError, match="cannot be read"):
            seed(file=tmp_path / "none.toml")
        (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(CommandError, match="is no TOML"):
            seed(file=tmp_path / "bytes.toml")

    def test_the_custom_kind_says_that_it_is_unknown_as_long_as_it_is(self, file):
        from providers.adapters import registry

        text = '[[configuration]]\nslug = "c"\nname = "C"\nkind = "custom2"\nmodel = "m"\n'
        with pytest.raises(CommandError, match=", ".join(registry.kinds())):
            seed(file=file(text + "request = {body = 1}\n"))
