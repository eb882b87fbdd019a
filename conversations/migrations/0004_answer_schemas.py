from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0003_stop_receipts_and_compaction"),
    ]

    operations = [
        migrations.AddField(
            model_name="chatsession",
            name="schema",
            field=models.TextField(blank=True, db_default="", default=""),
        ),
        migrations.AddField(
            model_name="message",
            name="structured",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="run",
            name="schema",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
    ]
