"""What a configuration may hold, where it may point to, and what it does as a row."""

from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError

from providers import addresses
from providers.adapters.base import Feature
from providers.addresses import BadAddress
from providers.models import Configuration

MARKED = "sk-marked-5d1f7c"

NEVER_USED = [
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "ftp://example.com/",
    "//example.com/v1",
    "localhost:11434",
    "http://",
    "http:///v1",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@evil.example/",
    "http://exa\nmple.com/",
    "http://example.com/\r\nX: 1",
    "http://example.com/\x00",
    "http://example.com/a b",
    "http://example.com\\@evil.example/",
    "http://example.com/#v1",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http://example.com:port/",
    "http://[::1/",
    "http://a..b/",
    "http://exämple.com/",
    "https://example.com/v1?api-key=secret",
    "https://example.com/v1?key=secret",
    # Link-local and metadata addresses, in every spelling that a resolver understands.
    "http://169.254.169.254/",
    "http://169.254.169.254./",
    "http://169.254.0.1:11434/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0XA9.0xfe.0xa9.0xfe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[febf::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[::169.254.169.254]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://metadata.google.internal/",
    "http://METADATA.google.internal./",
    "http://１６９.254.169.254/",
    "http://169.254.169.254%00/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
]
IN_PRIVATE_NETWORKS = [
    "http://localhost:11434",
    "http://LOCALHOST./",
    "http://models.localhost/",
    "http://127.0.0.1:8080/v1",
    "http://127.1/",
    "http://2130706433/",
    "http://0.0.0.0:11434",
    "http://[::1]:8080/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://10.0.0.5/",
    "http://172.16.3.4/",
    "http://192.168.1.20:1234/v1",
    "http://100.64.0.1/",
    "http://[fd12:3456::1]/",
]
IN_THE_OPEN = [
    "https://api.openai.com/v1",
    "https://api.openai.com",
    "https://api.openai.com/v1/",
    "HTTPS://API.OpenAI.com:443/v1/chat/completions",
    "https://example.openai.azure.com/openai/deployments/x?api-version=2026-01-01",
    "http://8.8.8.8:8080/",
    "http://[2606:4700::1111]/",
    "https://xn--bcher-kva.example/v1",
]


def configuration(**values):
    return Configuration(
        **{"name": "Test", "slug": "test", "kind": "openai", "model": "m", **values}
    )


def problems(made):
    with pytest.raises(ValidationError) as caught:
        made.full_clean()
    return caught.value.message_dict


@pytest.mark.contract("A15")
@pytest.mark.parametrize("url", NEVER_USED)
def test_an_address_that_is_never_used_is_refused_whatever_its_spelling(url):
    with pytest.raises(BadAddress):
        addresses.parse(url, private_allowed=True)


@pytest.mark.contract("A15")
@pytest.mark.parametrize("url", IN_PRIVATE_NETWORKS)
def test_private_addresses_are_used_only_where_that_is_allowed(url):
    addresses.parse(url, private_allowed=True)
    with pytest.raises(BadAddress):
        addresses.parse(url, private_allowed=False)


@pytest.mark.parametrize("url", IN_THE_OPEN)
def test_public_addresses_are_used_either_way(url):
    assert addresses.parse(url, private_allowed=False) == addresses.parse(url, private_allowed=True)


@pytest.mark.contract("R11")
@pytest.mark.parametrize(
    ("address", "allowed", "allowed_without_private"),
    [
        ("93.184.216.34", True, True),
        ("127.0.0.1", True, False),
        ("192.168.0.1", True, False),
        ("169.254.169.254", False, False),
        ("fe80::1%3", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fd00:ec2::254%2", False, False),
    ],
)
def test_the_address_that_a_name_resolved_to_is_judged_like_one_that_was_typed(
    address, allowed, allowed_without_private
):
    assert (addresses.refusal(address, private_allowed=True) is None) is allowed
    assert (addresses.refusal(address, private_allowed=False) is None) is allowed_without_private


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://api.openai.com", "https://API.openai.com:443/v1/", True),
        ("https://api.openai.com", "http://api.openai.com", False),
        ("https://api.openai.com", "https://api.openai.com:8443", False),
        ("https://api.openai.com", "https://api.openai.com.evil.example", False),
    ],
)
def test_a_host_is_the_same_only_with_its_scheme_and_port(one, other, same):
    def origin(url):
        return addresses.parse(url, private_allowed=True)

    assert (origin(one) == origin(other)) is same


@pytest.mark.django_db
class TestWhatAConfigurationMayHold:
    def test_a_plain_one_is_fine(self):
        configuration().full_clean()

    @pytest.mark.contract("A15")
    def test_a_bad_base_url_is_an_error_of_that_field(self):
        assert (
            "link-local"
            in problems(configuration(base_url="http://169.254.169.254/"))["base_url"][0]
        )

    def test_private_addresses_can_be_switched_off_the_providers_own_default_included(
        self, settings
    ):
        configuration(kind="ollama").full_clean()
        settings.ALLOW_PRIVATE_ADDRESSES = False
        for kind, base_url in [("ollama", ""), ("openai", "http://10.0.0.1/v1")]:
            assert (
                "ALLOW_PRIVATE_ADDRESSES"
                in (problems(configuration(kind=kind, base_url=base_url))["base_url"][0])
            )
        configuration(kind="demo").full_clean()  # it connects to nothing

    def test_an_unknown_kind_names_the_known_ones(self):
        assert "demo" in problems(configuration(kind="nonsense"))["kind"][0]

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            ["X-A"],
            "X-A: 1",
            {"X A": "1"},
            {"": "1"},
            {"X-Ä": "1"},
            {"X-A\r\nX-B": "1"},
            {"X-A": 1},
            {"X-A": None},
            {"X-A": "1\r\nX-B: 2"},
            {"X-A": "1\x00"},
            {"X-A": "ä"},
            {"authorization": "Bearer x"},
            {"Host": "evil.example"},
            {"Content-Length": "0"},
            {"COOKIE": "a=b"},
        ],
    )
    def test_what_is_no_object_of_header_names_and_texts_is_refused(self, headers):
        assert "extra_headers" in problems(configuration(extra_headers=headers))

    def test_a_bad_header_value_is_not_repeated(self):
        found = problems(configuration(extra_headers={"X-Key": f"{MARKED}\n"}))
        assert MARKED not in str(found)

    def test_ordinary_headers_are_fine(self):
        configuration(extra_headers={"HTTP-Referer": "https://x.example", "X-T": ""}).full_clean()

    @pytest.mark.parametrize(
        "body",
        [
            [],
            [1],
            "seed",
            {"a": float("nan")},
            {"a": [float("inf")]},
            {"a": "\x00"},
            {"a": {"b\ud800": 1}},
        ],
    )
    def test_an_extra_body_that_cannot_be_sent_is_refused(self, body):
        assert "extra_body" in problems(configuration(extra_body=body))

    def test_a_very_deep_extra_body_is_refused(self):
        body: dict[str, object] = {}
        for _ in range(200):
            body = {"a": body}
        assert "extra_body" in problems(configuration(extra_body=body))

    @pytest.mark.contract("A20")
    @pytest.mark.parametrize("name", ["name", "model", "system_instructions"])
    @pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
    def test_text_that_cannot_be_stored_is_refused(self, name, text):
        assert name in problems(configuration(**{name: text}))

    def test_a_price_is_not_negative(self):
        assert "input_price" in problems(configuration(input_price=Decimal(-1)))

    def test_only_an_active_one_can_be_the_default(self):
        assert "is_default" in problems(configuration(is_active=False, is_default=True))


@pytest.mark.django_db
class TestRows:
    def make(self, slug="one", **values):
        made = configuration(slug=slug, **values)
        made.save()
        return Configuration.objects.get(pk=made.pk)

    def test_making_one_the_default_clears_the_former(self):
        former, other = self.make("former", is_default=True), self.make("other")
        other.make_default()
        former.refresh_from_db()
        assert (former.is_default, other.is_default) == (False, True)

    def test_a_duplicate_has_a_slug_of_its_own_and_the_same_key_for_the_same_host(self):
        original = self.make("gpt", base_url="https://a.example/v1", is_default=True)
        original.set_api_key(MARKED)
        original.save()
        copies = [original.duplicate(), original.duplicate()]
        assert [copy.slug for copy in copies] == ["gpt-copy", "gpt-copy-2"]
        copy = Configuration.objects.get(slug="gpt-copy")
        assert (copy.host, copy.api_key.reveal()) == (original.host, MARKED)
        assert (copy.is_default, copy.is_active) == (False, False)
        original.refresh_from_db()
        assert (original.slug, original.is_default, original.is_active) == ("gpt", True, True)

    def test_a_duplicate_is_for_the_same_groups(self, django_user_model):
        from django.contrib.auth.models import Group

        original = self.make()
        group = Group.objects.create(name="readers")
        original.allowed_groups.add(group)
        assert list(original.duplicate().allowed_groups.all()) == [group]

    def test_another_model_takes_its_window_and_prices_along_or_makes_them_unknown(self):
        row = self.make(context_window=1, input_price=1, cached_input_price=1, output_price=1)
        changed = row.take_model(
            "n",
            context_window=2,
            input_price=None,
            cached_input_price=None,
            output_price=Decimal(3),
        )
        row.refresh_from_db()
        assert (row.model, row.context_window, row.input_price, row.output_price) == (
            "n",
            2,
            None,
            Decimal(3),
        )
        assert set(changed) == {
            "model",
            "context_window",
            "input_price",
            "cached_input_price",
            "output_price",
        }

    def test_the_same_model_keeps_what_the_provider_does_not_tell(self):
        row = self.make(context_window=8, input_price=1, output_price=1)
        assert row.take_model("m", context_window=None, input_price=None, output_price=None) == []
        row.refresh_from_db()
        assert row.context_window == 8

    def test_a_free_kind_stays_free_with_another_model(self):
        row = self.make(kind="ollama")
        row.take_model("n", context_window=5, input_price=None, output_price=None)
        row.refresh_from_db()
        assert row.price_label == "free"

    def test_a_row_of_a_kind_that_is_gone_can_still_be_shown(self):
        row = self.make(kind="gone")
        assert row.host == ""


@pytest.mark.contract("P6")
def test_a_model_brings_along_what_it_can_do_and_what_it_refuses(db):
    row = Configuration.objects.create(name="C", slug="c", kind="openrouter", model="a/b")
    told = {"capabilities": ["text", "vision"], "refused_parameters": ["temperature"]}
    assert row.take_model("a/c", **told) == ["model", "capabilities", "refused_parameters"]
    row.refresh_from_db()
    assert row.supports(Feature.VISION)
    assert not row.supports(Feature.TOOLS)
    assert row.supports(Feature.STREAMING)
    unknown = {"capabilities": None, "refused_parameters": None}
    assert row.take_model("a/c", **unknown) == []
    row.take_model("a/d", **unknown)
    row.refresh_from_db()
    assert (row.capabilities, row.refused_parameters) == ([], [])
    assert row.supports(Feature.TOOLS)


@pytest.mark.parametrize("value", [["flying"], "tools", {"tools": 1}, [1], [["tools"]]])
def test_abilities_that_are_none_are_refused(db, value):
    row = Configuration(name="C", slug="c", kind="openai", model="m", capabilities=value)
    with pytest.raises(ValidationError, match="capabilities"):
        row.full_clean()
