"""Code to the spans of Pygments, with classes only, for languages measured to be safe.

A lexer's patterns cannot be interrupted, and many are quadratic or worse on hostile text: 4 KB of
`a\\n` keep the C# lexer busy for 1.4 s. So what reaches a lexer is bounded beforehand, by rules
that depend on the code alone (a page must look the same while it streams and after a reload).
The figures are those of `benchmarks/rendering.py`.
"""

import re
from functools import lru_cache
from html import escape

from pygments import highlight as pygmentize
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_all_lexers, get_lexer_by_name
from pygments.token import STANDARD_TYPES

CLASSES = frozenset(STANDARD_TYPES.values()) - {""}

CODE_LIMIT = 10_000  # characters; about 300 lines, at 0.5 to 1.7 ms a KB
# Less for lexers that are quadratic, or cubic, within the other rules. The worst text found takes
# 60 to 130 ms of processor time then, in a dozen of them (Scala, C#, Go …); in most far less.
_QUADRATIC = """
    c cmake common-lisp cpp csharp css dart fortran go groovy html java julia kotlin less make
    matlab objective-c perl protobuf ruby scala tsx typescript vue xml
"""
LIMITS = dict.fromkeys(_QUADRATIC.split(), 5_000) | {"terraform": 1_500}
WIDTH_LIMIT = 500  # a line; most slow patterns run to its end
RUN_LIMIT = 200  # without any sign: words that some lexers read as an endless declaration

# What people and models write code in. Others are shown plain, as are the lexers left out on
# purpose: those of unbounded cost, and those that run other lexers chosen by the text.
_SAFE = """
    bash batch c clojure cmake common-lisp console cpp csharp css dart diff docker elixir erlang
    fortran fsharp go graphql groovy haskell html ini java javascript json jsx julia kotlin less
    lua make matlab nasm nginx nimrod objective-c ocaml perl php postgresql powershell protobuf
    pycon python pytb ruby rust scala scheme scss solidity splus sql swift terraform toml tsx
    typescript vim vue xml yaml zig
"""
LANGUAGES = frozenset(_SAFE.split())
_BY_ALIAS = {
    alias: aliases[0]
    for _, aliases, _, _ in get_all_lexers(plugins=False)
    if aliases and aliases[0] in LANGUAGES
    for alias in aliases
}
_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True)
_SIGN = re.compile(r"[^\w\s]+")


def highlight(code: str, language: str) -> str:
    """The code as escaped HTML: with spans if the language is known and the code harmless."""
    name = _BY_ALIAS.get(language.lower())
    if name is None or not _is_harmless(code, LIMITS.get(name, CODE_LIMIT)):
        return escape(code)
    return _highlighted(code, name)


def highlight_long_json(code: str) -> str:
    """JSON of any length as escaped HTML with spans; its lexer, unlike others, is linear."""
    return _pygmentize(code, "json")


@lru_cache(maxsize=64)  # a fence inside an open list is rendered with each view of the list
def _highlighted(code: str, name: str) -> str:
    return _pygmentize(code, name)


def _pygmentize(code: str, name: str) -> str:
    lexer = get_lexer_by_name(name, stripnl=False, ensurenl=False)
    html = pygmentize(code, lexer, _FORMATTER)
    return html if code.endswith("\n") else html.removesuffix("\n")  # the formatter's own


def _is_harmless(code: str, limit: int) -> bool:
    return (
        len(code) <= limit
        and all(len(line) <= WIDTH_LIMIT for line in code.split("\n"))
        and all(len(run) <= RUN_LIMIT for run in _SIGN.split(code))
    )
