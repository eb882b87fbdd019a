"""Text from people and models to sanitised HTML, block by block: the only such place (R8).

    segments.py      text → segments, line by line: where a block may end, and how large it may grow
    markdown.py      one Markdown segment → its HTML blocks (markdown-it-py, then nh3)
    highlighting.py  code → the spans of Pygments, for languages measured to be safe
    sanitising.py    the allow-list; the last step of every path, and the one place that adds chrome
    blocks.py        the two ways in: `render` for a whole text, `BlockRenderer` for one that grows

Both ways cut the text with the same segmenter, so the page while streaming is the page after a
reload. Whatever Markdown cannot be afforded or fails on is shown as escaped text; nothing raises.
"""

from conversations.rendering.blocks import BlockRenderer, highlight_json, render

__all__ = ["BlockRenderer", "highlight_json", "render"]
