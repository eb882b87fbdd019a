"""The last step of every path to HTML: nh3 with an allow-list (R8), then our own chrome.

Nothing that comes from a text is trusted because of where in our code it came from: elements,
attributes, classes and address schemes are listed here and all else is dropped. There are no ids,
no styles, no images, no forms and no data attributes in the list.
"""

import re

import nh3

from conversations.rendering import highlighting

# The Copy button takes this place after cleaning, so that no markup from a text can make a button.
COPY_PLACE = '<span class="code-tools"></span>'
COPY_BUTTON = '<button type="button" class="code-copy" data-copy-code>Copy</button>'

_ELEMENTS = """
    a blockquote br code div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong
    table tbody td th thead tr ul
"""
_ALERTS = {f"markdown-alert-{kind}" for kind in ("note", "tip", "important", "warning", "caution")}
_ALIGNMENTS = {"align-left", "align-center", "align-right"}
_MATH = {"math", "math-display"}

_CLEANER = nh3.Cleaner(
    tags=set(_ELEMENTS.split()),
    clean_content_tags=set(),
    attributes={"*": set(), "a": {"href"}, "ol": {"start"}},  # else `title` and `lang` are on all
    tag_attribute_values={
        "div": {"tabindex": {"0"}, "role": {"group"}, "aria-label": {"Table"}},
        "pre": {"tabindex": {"0"}},
        "span": {"role": {"img"}, "aria-label": {"Done", "Not done"}},
    },
    allowed_classes={
        "code": {"highlight"},
        "div": {"code-block", "code-head", "language-mermaid", "table-scroll", "markdown-alert"}
        | _ALERTS
        | _MATH,
        "li": {"task-list-item"},
        "p": {"markdown-alert-title", "plain"},
        "pre": {"plain"},
        "span": {"code-lang", "code-tools", "image", "task-box"} | _MATH | highlighting.CLASSES,
        "td": _ALIGNMENTS,
        "th": _ALIGNMENTS,
        "ul": {"contains-task-list"},
        "ol": {"contains-task-list"},
    },
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    generic_attribute_prefixes=set(),
    strip_comments=True,
)


# What a link is after its address was refused: relative, another scheme, no valid host.
_LINK_TO_NOWHERE = re.compile(r'<a target="_blank" rel="[^"]*">(.*?)</a>', re.DOTALL)


def sanitise(html: str) -> str:
    """The HTML that may go into a page, with a Copy button on each code block."""
    clean = _LINK_TO_NOWHERE.sub(r"\1", _CLEANER.clean(html))
    return clean.replace(COPY_PLACE, COPY_BUTTON)
