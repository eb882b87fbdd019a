from django.db import migrations, models

import providers.validators


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0001_configurations"),
    ]

    operations = [
        migrations.AddField(
            model_name="configuration",
            name="request",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="How an endpoint of the kind custom is asked.",
                validators=[providers.validators.custom_request],
            ),
        ),
        migrations.AddField(
            model_name="configuration",
            name="response",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="How the answer of an endpoint of the kind custom is read.",
                validators=[providers.validators.custom_response],
            ),
        ),
    ]
