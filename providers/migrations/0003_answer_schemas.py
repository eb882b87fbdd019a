"""JSON schemas for answers, with a few that are ready, and how much a model is to think."""

from typing import Any

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import providers.validators


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


TEXT = {"type": "string"}
READY_MADE = [
    (
        "summary",
        "Summary",
        "A title, a few sentences and the key points.",
        _object(title=TEXT, summary=TEXT, key_points=_list(TEXT)),
    ),
    (
        "table",
        "Table",
        "Columns and rows, for comparisons and lists.",
        _object(title=TEXT, columns=_list(TEXT), rows=_list(_list(TEXT))),
    ),
    (
        "facts",
        "Facts",
        "Statements, each with how certain it is.",
        _object(
            facts=_list(
                _object(
                    statement=TEXT,
                    certainty={"type": "string", "enum": ["low", "medium", "high"]},
                )
            )
        ),
    ),
    (
        "contacts",
        "Contacts",
        "People and organisations that a text names. What it does not say is null.",
        _object(
            contacts=_list(
                _object(
                    name=TEXT,
                    organisation={"type": ["string", "null"]},
                    email={"type": ["string", "null"]},
                    phone={"type": ["string", "null"]},
                )
            )
        ),
    ),
    (
        "tasks",
        "Tasks",
        "What is to be done, by whom and until when.",
        _object(
            tasks=_list(
                _object(
                    task=TEXT,
                    owner={"type": ["string", "null"]},
                    due={"type": ["string", "null"], "description": "A date, as 2026-03-31."},
                    priority={"type": "string", "enum": ["low", "normal", "high"]},
                )
            )
        ),
    ),
]


def make_ready(apps: Any, schema_editor: Any) -> None:
    schemas = apps.get_model("providers", "AnswerSchema")
    for slug, name, description, schema in READY_MADE:
        schemas.objects.create(slug=slug, name=name, description=description, schema=schema)


class Migration(migrations.Migration):
    dependencies = [("providers", "0002_custom_endpoints")]

    operations = [
        migrations.CreateModel(
            name="AnswerSchema",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(max_length=100, validators=[providers.validators.plain_text]),
                ),
                (
                    "slug",
                    models.SlugField(
                        help_text="Its name in requests; providers get it too.",
                        max_length=64,
                        unique=True,
                    ),
                ),
                (
                    "description",
                    models.CharField(
                        blank=True, max_length=300, validators=[providers.validators.plain_text]
                    ),
                ),
                (
                    "schema",
                    models.JSONField(
                        help_text="What an answer has to be. For OpenAI, every object needs “additionalProperties”: false and all of its properties in “required”.",
                        validators=[providers.validators.json_schema],
                        verbose_name="JSON schema",
                    ),
                ),
            ],
            options={"verbose_name": "answer schema", "ordering": ["name", "pk"]},
        ),
        migrations.AddField(
            model_name="configuration",
            name="reasoning_effort",
            field=models.CharField(
                blank=True,
                choices=[("none", "None"), ("low", "Low"), ("medium", "Medium"), ("high", "High")],
                db_default="",
                default="",
                help_text="How much a model that can think is to think. Empty for its own way.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="configuration",
            name="reasoning_tokens",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Tokens that it may think at most, where a provider takes a number.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1000000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="configuration",
            name="schema",
            field=models.ForeignKey(
                blank=True,
                help_text="What all answers have to be, unless a request says otherwise.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                to="providers.answerschema",
                verbose_name="answer schema",
            ),
        ),
        migrations.RunPython(make_ready, migrations.RunPython.noop),
    ]
