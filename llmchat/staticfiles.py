"""How static files are named in production: by a hash of their content, also inside modules."""

from collections.abc import Callable
from re import Match
from typing import Any

from whitenoise.storage import CompressedManifestStaticFilesStorage

OTHERS = ("django_htmx/",)  # their comments have text that looks like an import


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    """Hashes names and compresses; `import` lines of ES modules name the hashed files too."""

    support_js_module_import_aggregation = True

    def url_converter(
        self, name: str, hashed_files: dict[str, str], template: str | None = None
    ) -> Callable[[Match[str]], str]:
        if name.startswith(OTHERS):
            return lambda match: match[0]
        converter: Callable[[Any], str] = super().url_converter(name, hashed_files, template)
        return converter
