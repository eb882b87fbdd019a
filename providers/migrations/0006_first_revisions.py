"""Gives each configuration the number of its latest revision, and those that there are a first one."""

from typing import Any

from django.db import migrations, models

from providers.revisions import snapshot


def record_first(apps: Any, schema_editor: Any) -> None:
    configurations = apps.get_model("providers", "Configuration").objects
    revisions = apps.get_model("providers", "ConfigurationRevision").objects
    for configuration in configurations.all():
        revisions.create(
            configuration=configuration,
            slug=configuration.slug,
            number=1,
            fields=snapshot(configuration),
        )
    configurations.update(revision=1)


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0005_revisions_and_responses"),
    ]

    operations = [
        migrations.AddField(
            model_name="configuration",
            name="revision",
            field=models.PositiveIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.RunPython(record_first, migrations.RunPython.noop),
    ]
