"""Configurations that make themselves (contract P8): found on this machine, or from a file.

`discovered` looks for providers that can be used at once, `read_file` reads declarations, `store`
writes either by slug. Doing it again changes only what has changed.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.text import slugify

from providers import probe, revisions, validators
from providers.adapters import registry
from providers.errors import ProviderError
from providers.fields import SecretUnreadable
from providers.models import Configuration

OLLAMA_PORT: Final = 11_434
CONNECT_SECONDS: Final = 1.0  # Ollama runs near by, or not at all
LARGEST_FILE: Final = 1_048_576  # bytes


class BadDeclaration(Exception):
    """Something that is not used; the text names the table, the field and what to do."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a configuration is to be: values by the model's field names.

    Fields that are not named keep what they have, and so does the key if `api_key` is None. A
    `discovered` one only begins a configuration: what an administrator made of it stays.
    """

    slug: str
    values: Mapping[str, Any]
    api_key: str | None = field(default=None, repr=False)
    is_default: bool | None = None
    is_discovered: bool = False
    source: str = ""  # names it in messages


# ---- What can be found

DEMO: Final = Declaration(
    "demo",
    {"name": "Demo", "kind": "demo", "model": "demo", "context_window": 8192},
    is_discovered=True,
)
# What a key in the environment is for. Prices and models of the providers change: Load models in
# the admin shows the present ones.
KNOWN_KEYS: Final[Mapping[str, Declaration]] = {
    "OPENAI_API_KEY": Declaration(
        "openai",
        {
            "name": "GPT-4o mini",
            "kind": "openai",
            "model": "gpt-4o-mini",
            "context_window": 128_000,
            "input_price": Decimal("0.15"),
            "cached_input_price": Decimal("0.075"),
            "output_price": Decimal("0.60"),
        },
    ),
    "OPENROUTER_API_KEY": Declaration(
        "openrouter",
        {"name": "OpenRouter", "kind": "openrouter", "model": "openrouter/auto"},
    ),
    "ANTHROPIC_API_KEY": Declaration(
        "anthropic",
        {
            "name": "Claude Sonnet 4.5",
            "kind": "anthropic",
            "model": "claude-sonnet-4-5",
            "context_window": 200_000,
            "input_price": Decimal("3"),
            "cached_input_price": Decimal("0.30"),
            "output_price": Decimal("15"),
        },
    ),
    "AIREFINERY_API_KEY": Declaration(
        "airefinery",
        {"name": "AI Refinery", "kind": "airefinery", "model": "openai/gpt-oss-120b"},
    ),
}


def discovered(say: Callable[[str], None]) -> list[Declaration]:
    """The demo, one for each API key in the environment, and the models of a reachable Ollama.

    `say` gets a sentence about what could not be used.
    """
    found = [DEMO]
    for variable, known in KNOWN_KEYS.items():
        key = settings.PROVIDER_KEYS.get(variable, "")
        if not key or known.values["kind"] not in registry.kinds():
            continue
        try:
            validators.api_key(key)
        except ValidationError as error:
            say(f"{variable} is not used: {error.message}")
        else:
            found.append(
                Declaration(known.slug, known.values, key, is_discovered=True, source=variable)
            )
    return found + _ollama(say)


def _ollama(say: Callable[[str], None]) -> list[Declaration]:
    address = _ollama_address(settings.OLLAMA_HOST)
    is_elsewhere = address != registry.adapter_class("ollama").default_base_url
    server = Configuration(
        name="Ollama",
        kind="ollama",
        base_url=address if is_elsewhere else "",
        connect_timeout=CONNECT_SECONDS,
    )
    server.set_api_key("")
    try:
        server.clean()
        models = probe.run(probe.models(server))
    except ValidationError as error:
        say(f"OLLAMA_HOST is not used: {' '.join(error.messages)}")
        return []
    except ProviderError as error:
        if is_elsewhere:  # on this machine it is simply not there
            say(f"Ollama at {address} was not asked for its models ({error.code}).")
        return []
    taken: Counter[str] = Counter()
    found = []
    for model in models:
        # Digits of versions stay apart: llama3.2:3b is not llama32-3b.
        words = re.sub(r"[.:/]", "-", model.id.removesuffix(":latest"))
        slug = f"ollama-{slugify(words)[:80]}"
        taken[slug] += 1
        if taken[slug] > 1:
            slug = f"{slug}-{taken[slug]}"
        values = {
            "name": model.id[:100],
            "kind": "ollama",
            "model": model.id,
            "base_url": server.base_url,
            "context_window": model.context_window,
        }
        found.append(Declaration(slug, values, is_discovered=True, source=f"Ollama's {model.id}"))
    return found


def _ollama_address(host: str) -> str:
    """The URL that OLLAMA_HOST stands for, in the forms that Ollama itself reads."""
    scheme, mark, rest = host.partition("://")
    if not mark:
        scheme, rest = "http", host
    name, slash, path = rest.partition("/")
    if not re.search(r":\d+$", name) and not mark:
        name = f"{name}:{OLLAMA_PORT}"
    # What a server listens on is not what a client connects to.
    name = re.sub(r"^(0\.0\.0\.0|\[::\])?(?=:|$)", lambda found: "localhost", name)
    return f"{scheme}://{name}{slash}{path}".rstrip("/")


# ---- What a file declares

Check = Callable[[Any], Any]  # the value as the model wants it; raises BadDeclaration


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadDeclaration("write a text in quotes")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadDeclaration("write true or false")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadDeclaration("write a whole number")
    return value


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise BadDeclaration("write a number")
    number = Decimal(value)
    if not number.is_finite():
        raise BadDeclaration("write a number that is neither nan nor inf")
    return number


def _number(value: Any) -> float:
    return float(_decimal(value))


def _json(value: Any) -> Any:
    """Decimals are for money; a request body has plain numbers."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    return value


FIELDS: Final[Mapping[str, Check]] = {
    "name": _text,
    "kind": _text,
    "model": _text,
    "base_url": _text,
    "system_instructions": _text,
    "context_window": _whole,
    "is_active": _flag,
    "connect_timeout": _number,
    "first_chunk_timeout": _number,
    "chunk_timeout": _number,
    "total_timeout": _number,
    "extra_headers": _json,
    "extra_body": _json,
    "uses_responses": _flag,
    "request": _json,
    "response": _json,
}
# Inline tables: their keys, the model's fields and how to read them.
TABLES: Final[Mapping[str, Mapping[str, tuple[str, Check]]]] = {
    "parameters": {
        "temperature": ("temperature", _number),
        "top_p": ("top_p", _number),
        "max_tokens": ("max_tokens", _whole),
        "context_limit": ("context_limit", _whole),
    },
    "prices": {
        "input": ("input_price", _decimal),
        "cached_input": ("cached_input_price", _decimal),
        "output": ("output_price", _decimal),
    },
}
OTHER_KEYS: Final = ("slug", "is_default", "api_key", "api_key_env")
# How the file names a field of the model, for messages.
WRITTEN_AS: Final = {
    column: f"{table}.{key}" for table, keys in TABLES.items() for key, (column, _) in keys.items()
}


def read_file(path: Path) -> list[Declaration]:
    """The configurations that a TOML file declares. Raises BadDeclaration for anything unclear."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadDeclaration(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > LARGEST_FILE:
        raise BadDeclaration(f"{path} is larger than {LARGEST_FILE} bytes; split it.")
    try:
        document = tomllib.loads(content.decode(), parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise BadDeclaration(f"{path} is no TOML: {error}.") from None
    tables = document.pop("configuration", None)
    if document:
        raise BadDeclaration(
            f"{path}: {', '.join(document)} is unknown; write [[configuration]] tables only."
        )
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadDeclaration(f"{path}: write one or more [[configuration]] tables.")
    declarations = [_declaration(number, table) for number, table in enumerate(tables, 1)]
    for slug, times in Counter(one.slug for one in declarations).items():
        if times > 1:
            raise BadDeclaration(
                f"configuration {slug}: slug: it is there {times} times; keep one."
            )
    defaults = [one.slug for one in declarations if one.is_default]
    if len(defaults) > 1:
        raise BadDeclaration(
            f"configuration {defaults[1]}: is_default: {defaults[0]} is the default already; "
            "keep one of them."
        )
    return declarations


def _declaration(number: int, table: dict[str, Any]) -> Declaration:
    slug = table.get("slug")
    source = (
        f"configuration {slug}" if isinstance(slug, str) and slug else f"configuration {number}"
    )

    def read(name: str, value: Any, check: Check) -> Any:
        try:
            return check(value)
        except BadDeclaration as error:
            raise BadDeclaration(f"{source}: {name}: {error}.") from None

    if not slug:
        raise BadDeclaration(f"{source}: slug: it is missing; give the configuration one.")
    slug = read("slug", slug, _text)
    known = {*FIELDS, *TABLES, *OTHER_KEYS}
    if "kind" in table and read("kind", table["kind"], _text) not in registry.kinds():
        raise BadDeclaration(
            f"{source}: kind: {table['kind']!r} is unknown; write one of "
            f"{', '.join(registry.kinds())}."
        )
    for name in table:
        if name not in known:
            raise BadDeclaration(
                f"{source}: {name}: this key is unknown; known are {_list(known)}."
            )
    values = {
        name: read(name, value, FIELDS[name]) for name, value in table.items() if name in FIELDS
    }
    for name, columns in TABLES.items():
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise BadDeclaration(
                f"{source}: {name}: write a table, as {{ {next(iter(columns))} = 1 }}."
            )
        for key, value in inner.items():
            if key not in columns:
                raise BadDeclaration(
                    f"{source}: {name}.{key}: this key is unknown; known are {_list(columns)}."
                )
            column, check = columns[key]
            values[column] = read(f"{name}.{key}", value, check)
    is_default = table.get("is_default")
    return Declaration(
        slug,
        values,
        _key(source, table, read),
        None if is_default is None else read("is_default", is_default, _flag),
        source=source,
    )


def _key(source: str, table: dict[str, Any], read: Callable[[str, Any, Check], Any]) -> str | None:
    """The declared key, None if there is none. It is in no message."""
    if "api_key" in table and "api_key_env" in table:
        raise BadDeclaration(f"{source}: api_key_env: api_key is there too; keep one of them.")
    if "api_key_env" in table:
        variable = read("api_key_env", table["api_key_env"], _text)
        key = (settings.READ_API_KEY(variable) or "").strip()
        if not key:
            raise BadDeclaration(
                f"{source}: api_key_env: {variable} is not set; set it in the environment or .env."
            )
        name = "api_key_env"
    elif "api_key" in table:
        key, name = read("api_key", table["api_key"], _text).strip(), "api_key"
    else:
        return None
    if key:
        try:
            validators.api_key(key)
        except ValidationError as error:
            raise BadDeclaration(f"{source}: {name}: {error.message}") from None
    return str(key)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


# ---- Storing


def store(declarations: Iterable[Declaration], say: Callable[[str], None]) -> None:
    """Store all of them, or none: raises BadDeclaration. `say` gets "created demo" and the like.

    Of what was discovered only the one that cannot be stored is left out.
    """
    lines = []
    with transaction.atomic():
        for declaration in declarations:
            try:
                lines.append(f"{_stored(declaration)} {declaration.slug}")
            except BadDeclaration as error:
                if not declaration.is_discovered:
                    raise
                # Nobody wrote it down, so nobody can mend it: the others are still of use.
                lines.append(f"left out {error}")
    for line in lines:
        say(line)


def _stored(declared: Declaration) -> str:
    """What was done: created, updated or unchanged."""
    row = Configuration.objects.filter(slug=declared.slug).first()
    is_new = row is None
    row = row or Configuration(slug=declared.slug)
    values = declared.values if is_new or not declared.is_discovered else {}
    former_origin = row.origin
    changed = {name for name, value in values.items() if getattr(row, name) != value}
    for name in changed:
        setattr(row, name, values[name])
    if _set_key(row, declared, former_origin, is_new=is_new):
        changed.add("api_key")
    if declared.is_default is False and row.is_default:
        row.is_default = False
        changed.add("is_default")
    becomes_default = bool(declared.is_default) and not row.is_default
    try:
        if becomes_default and not row.is_active:
            raise ValidationError(
                {"is_default": "Only an active configuration can be the default."}
            )
        if is_new:
            if row.kind in registry.kinds():
                row.begin_free()
            row.full_clean()
            row.save()
        elif changed:
            row.full_clean()
            row.save(update_fields=[*changed, "updated_at"])
    except ValidationError as error:
        raise BadDeclaration(_explained(declared, error)) from None
    if becomes_default:
        _make_default(row)
    if not (is_new or changed or becomes_default):
        return "unchanged"
    revisions.record(row, replaced=changed)
    return "created" if is_new else "updated"


def _make_default(row: Configuration) -> None:
    former = row.make_default()
    if former is not None:
        revisions.record(former)


def _set_key(
    row: Configuration, declared: Declaration, former_origin: Any, *, is_new: bool
) -> bool:
    """Give the row its key; whether that changed it. A key stays with its host (contract P9)."""
    moved = not is_new and row.origin != former_origin
    if declared.api_key is None:
        if moved and row.api_key:
            raise BadDeclaration(
                f"{declared.source}: api_key: the stored key belongs to {former_origin}; give one "
                f'for {row.origin or "the new kind"}, or "" for none.'
            )
        return False
    if declared.is_discovered and not is_new:
        # A key from the environment follows the variable, but only to the host that it is for.
        own = Configuration(kind=declared.values["kind"])
        if row.origin != own.origin:
            return False
    try:
        if row.api_key and row.api_key.reveal() == declared.api_key:
            return False
    except SecretUnreadable:
        pass  # this very key may bring it back
    if not (row.api_key or declared.api_key):
        return False
    row.set_api_key(declared.api_key)
    return True


def _explained(declared: Declaration, error: ValidationError) -> str:
    """The first problem, under the name that the file has for the field."""
    column, problems = next(iter(error.message_dict.items()))
    name = WRITTEN_AS.get(column, column)
    return f"{declared.source or declared.slug}: {name}: {' '.join(problems)}"


def choose_default() -> None:
    """Make the demo the default where there is none."""
    if not Configuration.objects.filter(is_default=True).exists():
        demo = Configuration.objects.active().filter(slug=DEMO.slug).first()
        if demo:
            _make_default(demo)
            revisions.record(demo)
