"""Finds the adapter of a kind. A new kind is one module in this package, and nothing else."""

import importlib
import inspect
import pkgutil
from functools import cache

from providers import adapters
from providers.adapters.base import Adapter


@cache
def _classes() -> dict[str, type[Adapter]]:
    """Every adapter of the package by its kind. Raises ValueError if two have the same kind."""
    found: dict[str, type[Adapter]] = {}
    for module_info in pkgutil.iter_modules(adapters.__path__, adapters.__name__ + "."):
        module = importlib.import_module(module_info.name)
        for _, candidate in inspect.getmembers(module, inspect.isclass):
            # Only where it is written, not where it is imported; a base class has no kind.
            if (
                candidate.__module__ != module.__name__
                or not issubclass(candidate, Adapter)
                or "kind" not in vars(candidate)
            ):
                continue
            other = found.setdefault(candidate.kind, candidate)
            if other is not candidate:
                raise ValueError(
                    f"two adapters have the kind {candidate.kind!r}: "
                    f"{other.__qualname__} and {candidate.__qualname__}"
                )
    return dict(sorted(found.items()))


def look_again() -> None:
    """Forget what was found, for a module that was added while the program runs."""
    importlib.invalidate_caches()
    _classes.cache_clear()


def kinds() -> list[str]:
    """The names of all kinds, sorted."""
    return list(_classes())


def adapter_class(kind: str) -> type[Adapter]:
    """The adapter of `kind`. Raises LookupError, naming the kinds there are, for any other."""
    try:
        return _classes()[kind]
    except KeyError:
        raise LookupError(f"no kind {kind!r}; there are {', '.join(kinds())}") from None
