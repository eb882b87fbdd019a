"""The two ways in: a whole text at once, and a text that is still being written."""

import json
from collections import OrderedDict
from html import escape
from threading import Lock
from typing import Any

from markdown_it.utils import EnvType

from conversations.rendering import highlighting, markdown
from conversations.rendering.sanitising import sanitise
from conversations.rendering.segments import Kind, Segment, Segmenter, clean

CACHE_LIMIT = 32_000_000  # characters of text and HTML; a transcript of 500 messages has 4 million
JSON_FENCE = "```json\n"
JSON_LIMIT = 300_000  # characters of JSON that are highlighted, at 1 ms a KB


class BlockRenderer:
    """Renders a growing text. `closed` is final and only grows, `open_html()` is what follows it.

    Both depend on the text so far, never on the pieces it came in. Only a link definition below its
    use can still change a closed block: `finish` says which ones in `changed`. With `is_json`, a
    text that begins as JSON is shown as the code that it is.
    """

    def __init__(self, *, breaks: bool = False, is_json: bool = False) -> None:
        self._before: str | None = "" if is_json else None  # what it begins with is not known yet
        self.closed: list[str] = []
        self.changed: list[int] = []
        self._segmenter = Segmenter()
        self._env: EnvType = {"breaks": breaks}
        # The segments that may use a definition from below them, and the places of their blocks.
        self._linking: list[tuple[range, Segment]] = []
        self._open: str | None = ""

    def feed(self, text: str) -> None:
        """The text goes on. What it completes is rendered, once."""
        if self._before is not None:
            text = self._before + text
            begun = text.lstrip()
            self._before = None if begun else text
            if not begun:
                return
            if begun[0] in "{[":
                text = f"{JSON_FENCE}{begun}"
        self._open = None
        self._add(self._segmenter.feed(text))

    def open_html(self) -> str:
        """What follows the closed blocks, rendered as if the text ended here.

        At most 15 ms for an open segment of the largest size, else for what is written: ask for
        it as often as readers need it, not for each chunk.
        """
        if self._open is None:
            segment = self._segmenter.open()
            # A definition that is still open may become another one.
            env = {**self._env, "references": dict(self._env.get("references", {}))}
            shown = markdown.blocks(segment, env, is_open=True) if segment else []
            self._open = "".join(shown)
        return self._open

    def finish(self) -> list[str]:
        """The text is complete: all its blocks, equal to `render(text)`."""
        self._add(self._segmenter.finish())
        self._open = ""
        if self._env.get("references"):
            for places, segment in self._linking:
                self._replace(places, markdown.blocks(segment, self._env))
        self._linking.clear()
        return self.closed

    def _add(self, segments: list[Segment]) -> None:
        for segment in segments:
            start = len(self.closed)
            self.closed.extend(markdown.blocks(segment, self._env))
            if "[" in segment.text and segment.kind is Kind.MARKDOWN:
                self._linking.append((range(start, len(self.closed)), segment))

    def _replace(self, places: range, blocks: list[str]) -> None:
        if len(blocks) != len(places):
            return  # with its links it grew beyond the limit: it stays without them
        for index, html in zip(places, blocks, strict=True):
            if self.closed[index] != html:
                self.closed[index] = html
                self.changed.append(index)


Key = tuple[str, bool, bool]


class _Cache:
    """The blocks of the texts rendered last, bounded by their size. Safe between threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Key, tuple[list[str], int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> list[str] | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return list(self._kept[key][0])

    def put(self, key: Key, blocks: list[str]) -> None:
        size = len(key[0]) + sum(map(len, blocks))
        with self._lock:
            if size > self._limit // 8 or key in self._kept:
                return
            self._kept[key] = (list(blocks), size)
            self._size += size
            while self._size > self._limit:
                _, (_, freed) = self._kept.popitem(last=False)
                self._size -= freed


_cache = _Cache(CACHE_LIMIT)


def render(text: str, *, breaks: bool = False, is_json: bool = False) -> list[str]:
    """The text's top-level blocks as sanitised HTML. Never raises.

    `breaks` makes single newlines line breaks, as people mean them; models mean Markdown's.
    `is_json` is said of answers that were to be JSON.
    """
    key = (text, breaks, is_json)
    if (blocks := _cache.get(key)) is None:
        renderer = BlockRenderer(breaks=breaks, is_json=is_json)
        renderer.feed(text)
        blocks = renderer.finish()
        _cache.put(key, blocks)
    return blocks


def highlight_json(value: Any) -> str:
    """JSON as a highlighted `<pre>`; a str is taken for JSON text, and shown as it is if it is not.

    Beyond JSON_LIMIT characters it is escaped only. Never raises.
    """
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(parsed, indent=2, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return markdown.plain(clean(str(value)))
    text = clean(text)
    is_short = len(text) <= JSON_LIMIT
    body = highlighting.highlight_long_json(text) if is_short else escape(text)
    return sanitise(f'<pre tabindex="0"><code class="highlight">{body}</code></pre>')
