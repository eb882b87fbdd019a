from django.db import migrations, models

import providers.validators


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0003_answer_schemas"),
    ]

    operations = [
        migrations.AddField(
            model_name="configuration",
            name="capabilities",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Nothing ticked: not known, and all that the kind can do is offered.",
                validators=[providers.validators.capabilities],
            ),
        ),
        migrations.AddField(
            model_name="configuration",
            name="refused_parameters",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="What is ticked here is never sent, as some models answer it with an error.",
                validators=[providers.validators.refused_parameters],
            ),
        ),
    ]
