"""How static files are named in production: by a hash of their content, also inside modules."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    """Hashes names and compresses; `import` lines of ES modules name the hashed files too."""

    support_js_module_import_aggregation = True
