"""A recorded request as a command for a shell, with its secrets left to the shell."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from providers.records import HIDDEN

USUAL_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("Authorization", f"Bearer {HIDDEN}"),
)
KEY_HEADERS: Final = {"authorization", "x-api-key", "api-key"}
# What curl sets by itself, and what is true of one connection only.
LEFT_OUT: Final = {"host", "content-length", "connection", "accept-encoding"}
MOST_ARGUMENT: Final = 100_000  # characters; Linux takes 128 KiB, and then no command at all


def command(method: str, url: str, headers: Iterable[Sequence[str]], body: str) -> str:
    """`curl` for this request. The key is `$API_KEY`; a secret in another header is a variable
    of the header's name, such as `$X_TEAM_TOKEN`."""
    parts = [f"curl -N -X {shlex.quote(method)} {_filled(url, 'API_KEY')}"]
    for name, value in headers:
        if name.lower() not in LEFT_OUT:
            parts.append(f"-H {_filled(f'{name}: {value}', _variable(name))}")
    return " \\\n  ".join([*parts, _data(body)])


def _variable(header: str) -> str:
    """The name of the variable that stands for a header's secret."""
    if header.lower() in KEY_HEADERS:
        return "API_KEY"
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in header.upper())


def _filled(text: str, variable: str) -> str:
    """`text` as one word of a shell, with a variable in place of what is hidden."""
    if HIDDEN not in text:
        return shlex.quote(text)
    return f'"{f"${variable}".join(map(_within_quotes, text.split(HIDDEN)))}"'


def _within_quotes(text: str) -> str:
    """`text` between double quotes, where a shell would read some characters."""
    return "".join(f"\\{c}" if c in '\\"$`' else c for c in text)


def _data(body: str) -> str:
    if len(body) < MOST_ARGUMENT:
        return f"--data-raw {shlex.quote(body)}"
    return f"--data-binary @- <<'BODY'\n{body}\nBODY\n"  # JSON on one line has no other such line
