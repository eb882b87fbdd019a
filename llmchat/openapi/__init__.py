"""The OpenAPI 3.1 description of everything that programs can call: JSON, streams and files.

`description()` is the whole document; each group of addresses is a module that names its schemas
and paths. Bounds come from the forms and settings that hold them. It says nothing that a stranger
may not know: addresses and shapes, and no names of configurations or people.
"""

from typing import Any, Final

from llmchat.openapi import chat, events, failures, operators, programs

VERSION: Final = "1"
GROUPS: Final = (
    (
        "Chat",
        "Sessions, messages, images, and the runs that answer them. For the app's own page: with "
        "its cookie, and the CSRF token where something changes.",
        chat,
    ),
    (
        "Programs",
        "With a token, in the shapes of OpenAI and Anthropic. `model` is the slug of a "
        "configuration. ",
        programs,
    ),
    (
        "Tokens, monitor and operators",
        "Tokens for programs, what ran and what runs, the records of the inspector, health and "
        "metrics.",
        operators,
    ),
)
INTRODUCTION: Final = """\
Everything that programs can call. Ask with `Accept: application/json`: many addresses are pages \
too.

A run belongs to the server, not to a connection. Each event of a stream has an id, \
`<run id>:<number>`, with which the run can be followed from there. Fields and types of events are \
added with time, so ignore what you do not know; none is renamed or dropped.
The schema of a `text/event-stream` is that of each event in it.
"""
SECURITY: Final = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "The login cookie.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": "X-CSRFToken",
        "description": "The value of the cookie `csrftoken`, for all that changes something.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token that you made under API tokens: `Authorization: Bearer TOKEN`.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same token, as Anthropic's clients send it.",
    },
    "metrics": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token in the server's setting `METRICS_TOKEN`.",
    },
}


def description() -> dict[str, Any]:
    """The document, with the bounds of the settings as they are now."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {**failures.SCHEMAS, **events.SCHEMAS}
    for name, _, group in GROUPS:
        for path, item in group.paths().items():
            for method in item.keys() - {"parameters"}:
                item[method]["tags"] = [name]
            paths[path] = item
        schemas |= group.schemas()
    return {
        "openapi": "3.1.1",
        "info": {"title": "llmchat", "version": VERSION, "description": INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": words + (programs.limits() if group is programs else "")}
            for name, words, group in GROUPS
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": failures.RESPONSES,
            "securitySchemes": SECURITY,
        },
    }
