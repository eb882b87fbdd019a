"""Reads the environment and stops the start on a bad value, in one sentence that names it.

`settings.py` is the only caller. Secrets that nobody set are made once and kept in files that
only their owner can read.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

EXAMPLE_SECRETS = ("change", "secret", "example", "insecure", "django-insecure", "your-")
MIN_SECRET_CHARACTERS = 32
TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}


def stop(sentence: str) -> SystemExit:
    """The end of a start that cannot go well; `sentence` names the setting and what to do."""
    return SystemExit(f"llmchat cannot start: {sentence}")


class Env:
    """Typed readers. An empty value counts as not set; `names` holds all that were asked for."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self.values = values
        self.names: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        self.names.append(name)
        return (self.values.get(name) or "").strip() or default

    def texts(self, name: str, default: str = "") -> list[str]:
        """Texts separated by commas."""
        return [part for raw in self.text(name, default).split(",") if (part := raw.strip())]

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value not in TRUE | FALSE:
            raise stop(f"{name} is {value!r}; set it to true or false.")
        return value in TRUE

    def integer(self, name: str, default: int, *, least: int = 0, most: int = 10**9) -> int:
        return int(self._number(name, default, least, most, int, "a whole number"))

    def seconds(
        self, name: str, default: float, *, least: float = 0.01, most: float = 86_400
    ) -> float:
        return self._number(name, default, least, most, float, "a number of seconds")

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        value = self.text(name, default)
        found = next((choice for choice in choices if choice.lower() == value.lower()), None)
        if found is None:
            known = ", ".join(choices) if len(choices) < 10 else f"one such as {default}"
            raise stop(f"{name} is {value!r}; known are: {known}.")
        return found

    def _number(
        self,
        name: str,
        default: float,
        least: float,
        most: float,
        convert: Callable[[str], float],
        what: str,
    ) -> float:
        value = self.text(name, str(default))
        try:
            number = convert(value)
        except ValueError:
            raise stop(f"{name} is {value!r}; set it to {what}.") from None
        if not least <= number <= most:
            raise stop(f"{name} is {value}; set it to {what} from {least} to {most}.")
        return number


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`, made and stored with mode 0600 if there is none yet.

    Of two processes that start at once, the one that links its file first decides for both.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise stop(f"DATA_DIR {path.parent} cannot be made: {error.strerror}.") from None
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make() + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def check_secret(name: str, secret: str, *, debug: bool) -> str:
    """`secret`, unless it is one that others may know."""
    is_weak = len(secret) < MIN_SECRET_CHARACTERS or secret.lower().startswith(EXAMPLE_SECRETS)
    if is_weak and not debug:
        raise stop(
            f"{name} is an example or shorter than {MIN_SECRET_CHARACTERS} characters; "
            "leave it unset to have one made and kept in DATA_DIR, or set a random one."
        )
    return secret
