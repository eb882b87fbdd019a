"""What rendering costs in processor time: long answers, hostile text and slow lexers (A22).

Run with `.venv/bin/python -m benchmarks.rendering`; add `lexers` for the lexers too.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from conversations.rendering import BlockRenderer, highlight_json, highlighting
from conversations.rendering.highlighting import CODE_LIMIT, LANGUAGES, LIMITS, RUN_LIMIT

PROSE = "Lorem ipsum **dolor** sit amet, `consectetur` [elit](https://example.org/a) sed do. "
# What is repeated to make a slow text; `_` stands for a space.
HOSTILE_MARKS = (
    "[ ] ![ [a]( [a][ [a](b) ![a](b) [](< ]( [x]: [[]] * ** *** **a_ _a_ *a**b*** a**b ~~ ~~a_"
    " ` a`b`` > >_ - -_ - 1._ < <!-- <![ <a_ & &#x \\ \\( \\[ | |a $ $$ $a http:// ://"
    " a://b a@b # _ = -- \t [\n ]\n a\n -_a\n 1._a\n >_a\n >\n -\n ```\n ~~~\n #\n |a\n $$\n $$x\n"
    " \\[x\n \\[\n ____a\n [a]:_b\n [^1] ![[]() <http://a> \n _\n |-|\n a|b\n"
)
CODE_MARKS = (
    "\" ' ` /* <!-- < { ( [ \\ $( ${ a _ <a_ \"\"\" ''' #{ {{ {% =begin\n @ 0 - : \n a: a( a< a."
    ' a\n "\n / // r" <<A\n <<< %q( --[[ (* {- $ \\begin{ [[ /*_ \'_ a_ 0. 1e a= * | ~ ^ % # &'
    ' a, a_b\n @a_ def_a def_a\n class_a <a_b=" ! ? ; a- \t _\n f"{ -_a:\n a:_ @@_ >_ |\n && ::'
    " -> $a \\\n /a int_a("
)
CODE = 'def total(items: list[int]) -> int:\n    return sum(items)  # of "all"\n\n'


def answers(size: int) -> dict[str, str]:
    """Long answers of one kind each, `size` characters long."""
    patterns = {
        "one fence": "```python\n" + CODE * size,
        "one paragraph, one line": PROSE * size,
        "one paragraph, many lines": (PROSE + "\n") * size,
        "many lists": "".join(f"Point {i}:\n- {PROSE}\n- {PROSE}\n\n" for i in range(size // 150)),
        "one huge list": f"- {PROSE}\n" * size,
        "one huge numbered list": f"1. {PROSE}\n   - more\n" * size,
        "one huge table": "| a | b |\n|---|--:|\n" + f"| {PROSE} | `1` |\n" * size,
        "one huge quote": f"> {PROSE}\n" * size,
        "ordinary": f"## Title\n\n{PROSE * 5}\n\n- {PROSE}\n- a\n\n```python\n{CODE}```\n\n" * size,
    }
    return {name: text[:size] for name, text in patterns.items()}


def hostile(size: int) -> dict[str, str]:
    """Text on which Markdown parsers are known to be slow, `size` characters long."""
    made = {
        repr(unit): unit.replace("_", " ") * (size // len(unit))
        for unit in HOSTILE_MARKS.split(" ")
    }
    columns, deep = "|" * 10_000, "".join(f"{'  ' * i}- a\n" for i in range(size))
    return made | {
        "one long line": "x" * (4 * size),
        "wide table": f"{columns}\n{'|-' * 10_000}|\n{columns}\n",
        "unfilled rows": f"{'|' * 500}\n{'|-' * 500}|\n" + "|\n" * (size // 2),
        "ladder of lists": deep[:size],
        "deep quotes": (">" * 99 + "a\n") * (size // 100),
        "quotes, 12 deep": ("> " * 12 + "a\n") * (size // 26),
        "lists, 12 deep": ("- " * 12 + "a\n") * (size // 26),
        "brackets, 12 deep": ("[" * 12 + "]" * 12) * (size // 24),
        "links, 12 deep": ("[" * 12 + "](a)" * 12) * (size // 60),
        "ticks of all lengths": " ".join("`" * i for i in range(1, 300))[:size],
        "a reference many times": f"[a]: http://x.y/{'b' * 1900}\n\n" + "[a]" * (size // 3),
        "definitions": "".join(f"[{i}]: http://x.y\n" for i in range(size // 20)),
        "fences of one line": "```python\nx = 1\n```\n" * (size // 20),
        "languages": "".join(f"```l{i}\nx\n```\n" for i in range(size // 13)),
    }


def stream(text: str, piece: int, every: int) -> tuple[float, float, float]:
    """Seconds in all; of the slowest view; of the slowest piece, its view included."""
    renderer = BlockRenderer()
    began = time.process_time()
    slowest = slowest_view = 0.0
    for number, start in enumerate(range(0, len(text), piece)):
        before = time.process_time()
        renderer.feed(text[start : start + piece])
        if number % every == 0:
            viewed = time.process_time()
            renderer.open_html()
            slowest_view = max(slowest_view, time.process_time() - viewed)
        slowest = max(slowest, time.process_time() - before)
    renderer.finish()
    return time.process_time() - began, slowest_view, slowest


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def lexers() -> Iterator[tuple[float, str, str]]:
    """The worst text found for each lexer, as long and as even as the guards let through."""
    for language in sorted(LANGUAGES):
        limit = LIMITS.get(language, CODE_LIMIT)
        figures = []
        for unit in CODE_MARKS.split(" "):
            run = (unit.replace("_", " ") * limit)[: RUN_LIMIT - 2]
            run = run if re.search(r"[^\w\s]", run) else run + ";"
            code = run * (limit // len(run))
            if "\n" not in unit:
                lines = (code[i : i + 499] + "\n" for i in range(0, len(code), 499))
                code = "".join(lines)[:limit]
            figures.append((seconds(partial(highlighting.highlight, code, language)), unit))
        slowest, unit = max(figures)
        yield slowest, language, unit


def main() -> None:
    print("200 KB answers in pieces of 5, a view for every 100th: in all, slowest view and piece")
    for name, text in answers(200_000).items():
        total, view, slowest = stream(text, 5, 100)
        print(f"  {name:28}{total:8.2f} s{view * 1000:8.1f} ms{slowest * 1000:8.1f} ms")
    print("Hostile 50 KB in pieces of 50, a view for every 10th, and whole")
    figures = []
    for name, text in hostile(50_000).items():
        whole = seconds(partial(_render_once, text))
        total, view, slowest = stream(text, 50, 10)
        figures.append(
            (whole, f"{name:28}{total:8.2f} s{view * 1000:8.1f} ms{slowest * 1000:8.1f} ms")
        )
    for whole, line in sorted(figures, reverse=True)[:15]:
        print(f"  {line}  whole {whole:6.2f} s")
    value = [{"name": f"item {i}", "value": i, "tags": ["a", None]} for i in range(4_000)]
    print(f"300 KB of JSON: {seconds(lambda: highlight_json(value)):.2f} s")
    if "lexers" in sys.argv:
        for slowest, language, unit in sorted(lexers(), reverse=True):
            print(f"  {language:20}{slowest * 1000:8.1f} ms  {unit!r}")


def _render_once(text: str) -> None:
    renderer = BlockRenderer()
    renderer.feed(text)
    renderer.finish()


if __name__ == "__main__":
    main()
