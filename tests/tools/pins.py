"""Whether requirements*.txt are what pyproject.toml asks for: `python -m tests.tools.pins`.

It needs no network: it follows the metadata of the installed packages, so it sees what is missing,
too old or no longer asked for on this platform. It cannot see that something newer exists.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
Pins = Mapping[str, str]


def pins_of(text: str) -> dict[str, str]:
    """The version of each package that is pinned for this platform, by canonical name."""
    pinned = (Requirement(line) for line in re.findall(r"^(\w[^\\\n]*)", text, re.MULTILINE))
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pinned
        if pin.marker is None or pin.marker.evaluate()
    }


def problems(asked: Iterable[str], pins: Pins) -> Iterator[str]:
    """What is wrong with `pins`, a sentence each, given what the project asks for."""
    todo = [(Requirement(line), "pyproject.toml") for line in asked]
    seen = set()
    while todo:
        requirement, by = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, by, *requirement.extras) in seen:
            continue
        seen.add((name, by, *requirement.extras))
        version = pins.get(name)
        if version is None:
            yield f"{name} is not pinned, and {by} asks for it."
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{name} is pinned to {version}, and {by} asks for {requirement.specifier}."
        else:
            todo += [(each, name) for each in _asked_by(name, requirement.extras)]
    for unasked in pins.keys() - {name for name, *_ in seen}:
        yield f"{unasked} is pinned, and nothing asks for it."


def _asked_by(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"]
    pins = pins_of((ROOT / "requirements.txt").read_text())
    all_pins = pins_of((ROOT / "requirements-dev.txt").read_text())
    found = [*problems(asked, pins)]
    found += problems([*asked, *project["optional-dependencies"]["dev"]], all_pins)
    found += [
        f"{name} is pinned to {version}, and to another version in requirements-dev.txt."
        for name, version in pins.items()
        if all_pins.get(name) != version
    ]
    for line in sorted(set(found)):
        print(line)
    if found:
        print("`make requirements` pins anew.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
