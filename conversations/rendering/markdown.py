"""One Markdown segment to its HTML blocks: CommonMark and GFM as models write it, and math.

markdown-it-py does the parsing, raw HTML switched off, with rules of our own where it or its
plugins are slow on hostile text, wrong about prices, or strict about `**` beside Chinese. Segments
that would cost too much are known by their brackets, cells and depth before they are parsed.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace, unescapeAll
from markdown_it.parser_inline import ParserInline
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from conversations.rendering.highlighting import highlight
from conversations.rendering.sanitising import COPY_PLACE, sanitise
from conversations.rendering.segments import Kind, Segment

# Each `[` that finds no partner makes the parser look again; 8 KB of them take 140 ms, these 20.
BRACKET_DEPTH = 12
BRACKET_LIMIT = 600
NESTING_LIMIT = 30  # levels of lists (two each) and quotes; below it markdown-it drops the text
ADDRESS_LIMIT = 2_000
GROWTH_LIMIT = 30  # HTML per character; spans of code reach 15, a repeated reference any number


class TooCostly(Exception):
    """A segment that is shown as plain text, as its Markdown would take too long or lose text."""


def blocks(segment: Segment, env: EnvType, *, is_open: bool = False) -> list[str]:
    """The segment's top-level blocks as sanitised HTML. Never raises.

    `env` has what the segments of one text share: "references" (filled by definitions on the way)
    and "breaks" (single newlines are line breaks). While `is_open`, code that has no closing fence
    is not highlighted, as it would be again with each line.
    """
    if segment.kind is Kind.PLAIN:
        return [plain(segment.text)]
    env["is_open"] = is_open
    try:
        if segment.kind is Kind.CODE:
            code = _code_block(segment.text, segment.info, plain=is_open or segment.is_part)
            return [sanitise(code)]
        return [sanitise(html) for html in _markdown(segment, env)]
    except Exception:  # whatever a parser, lexer or cleaner trips over is still text to be read
        return [plain(segment.text)]


def plain(text: str) -> str:
    """Escaped text with its line breaks."""
    return sanitise(f'<pre class="plain" tabindex="0">\n{escape(text)}</pre>')


def _markdown(segment: Segment, env: EnvType) -> Iterator[str]:
    """The HTML of each top-level block, not sanitised yet."""
    _check_cost(segment.text)
    text = segment.text if segment.text.endswith("\n") else segment.text + "\n"
    tokens = _PARSER.parse(text, env)
    if any(token.level >= NESTING_LIMIT - 1 for token in tokens):
        raise TooCostly
    if segment.number is not None and tokens and tokens[0].type == "ordered_list_open":
        tokens[0].attrSet("start", segment.number)
    start, room = 0, GROWTH_LIMIT * len(text) + 1_000
    for end, token in enumerate(tokens, 1):
        if token.level == 0 and token.nesting <= 0 and token.type != "inline":
            html = _PARSER.renderer.render(tokens[start:end], _PARSER.options, env)
            room -= len(html)
            if room < 0:
                raise TooCostly
            yield html
            start = end


# Cost

_BRACKETS = re.compile(r"\\.|[\[\]]|\n[ \t]*\n", re.DOTALL)
_TABLE_RULE = re.compile(r"^[ \t>]*[|:-][|: \t-]*$", re.MULTILINE)


def _check_cost(text: str) -> None:
    """Raise TooCostly for text whose parsing is more than linear. Linear itself."""
    depth = 0
    opened = 0
    for found in _BRACKETS.finditer(text):
        match found[0]:
            case "[":
                depth += 1
                opened += 1
            case "]":
                depth = max(0, depth - 1)
            case sign if sign[0] == "\n":
                depth = 0
        if depth > BRACKET_DEPTH or opened > BRACKET_LIMIT:
            raise TooCostly
    # Short rows are filled up to the width of the table. Cells that were written take two
    # characters each, so more cells than half the characters are filling, not data.
    for rule in _TABLE_RULE.finditer(text):
        columns = rule[0].count("|") + 1
        if columns > 20 and columns * text.count("\n", rule.end()) > len(text):
            raise TooCostly


# Inline rules

_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\u303f\u3040-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f"
    "\uff00-\uffef\U00020000-\U0003ffff]"
)


class _InlineState(StateInline):
    """Emphasis as CommonMark has it, except that Chinese, Japanese and Korean need no spaces.

    In `**「重点」**是` the closing mark stands between a sign and a letter, which elsewhere means
    that it opens. Source: the proposal "CommonMark CJK-friendly amendments".
    """

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        marker, pos = self.src[start], start
        while pos < self.posMax and self.src[pos] == marker:
            pos += 1
        before = self.src[start - 1] if start > 0 else " "
        after = self.src[pos] if pos < self.posMax else " "
        space_before, sign_before, cjk_before = _traits(before)
        space_after, sign_after, cjk_after = _traits(after)
        left = not space_after and (
            not sign_after or cjk_after or space_before or sign_before or cjk_before
        )
        right = not space_before and (
            not sign_before or cjk_before or space_after or sign_after or cjk_after
        )
        return Scanned(
            left and (canSplitWord or not right or sign_before),
            right and (canSplitWord or not left or sign_after),
            pos - start,
        )


def _traits(char: str) -> tuple[bool, bool, bool]:
    is_sign = isMdAsciiPunct(ord(char)) or isPunctChar(char)
    return isWhiteSpace(ord(char)), is_sign, _CJK.match(char) is not None


class _Inline(ParserInline):
    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        state = _InlineState(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


# `$` is also money: no space inside the marks, no letter or digit outside them.
_DOLLARS = re.compile(r"\$\$((?:[^$\\]|\\.)++)\$\$(?!\$)", re.DOTALL)
_DOLLAR = re.compile(r"\$(?!\s)((?:[^$\\]|\\.)++)(?<!\s)\$(?![0-9A-Za-z$])", re.DOTALL)
_PRICE = re.compile(r"[\d.,]+[^\\^_=+*/<>{}\s]*\s[^\\^_=+*/<>{}]*")  # "$5, or 10$": no operator
_BRACKETED = {r"\(": r"\)", r"\[": r"\]"}


def _inline_math(state: StateInline, silent: bool) -> bool:
    """`$x$`, `$$x$$`, `\\(x\\)` and `\\[x\\]` within a paragraph."""
    src, pos = state.src, state.pos
    mark = src[pos : pos + 2]
    if closing := _BRACKETED.get(mark):
        end = src.find(closing, pos + 2, state.posMax)
        tex, end = src[pos + 2 : max(end, 0)], end + 2
    elif mark[:1] == "$":
        before = src[pos - 1] if pos else " "
        if before in "\\$" or (before.isascii() and before.isalnum()):
            return False
        found = (_DOLLARS if mark == "$$" else _DOLLAR).match(src, pos, state.posMax)
        if found is None or (mark != "$$" and _PRICE.fullmatch(found[1])):
            return False
        tex, end = found[1], found.end()
    else:
        return False
    if not tex.strip():
        return False
    if not silent:
        token = state.push("math_inline", "span", 0)
        token.content, token.markup = tex, mark if mark in ("$$", r"\[") else ""
    state.pos = end
    return True


_ADDRESS = re.compile(r"://[^\s<>`\"\u3000-\u303f\uff00-\uffef]{1,2000}")


def _bare_address(state: StateInline, silent: bool) -> bool:
    """`https://…` without brackets becomes a link.

    An own rule as the others rescan the text before each colon, or take 4 s for 50 KB.
    """
    src, pos = state.src, state.pos
    if src[pos] != ":" or silent or state.linkLevel or not src.startswith("://", pos):
        return False
    scheme = re.search(r"(?<![A-Za-z0-9])https?$", src[max(0, pos - 6) : pos], re.IGNORECASE)
    found = _ADDRESS.match(src, pos, state.posMax)
    if scheme is None or found is None or not state.pending.endswith(scheme[0]):
        return False
    rest = _without_trailing_signs(found[0])
    if not re.match(r"://[^\W_]", rest):
        return False
    address = scheme[0] + rest
    href = state.md.normalizeLink(address)
    if not state.md.validateLink(href):
        return False
    state.pending = state.pending[: -len(scheme[0])]
    state.push("link_open", "a", 1).attrs = {"href": href}
    state.push("text", "", 0).content = address
    state.push("link_close", "a", -1)
    state.pos = pos + len(rest)
    return True


def _without_trailing_signs(address: str) -> str:
    """The address less what belongs to the sentence around it: `(see https://a.b/c_(d)).`"""
    while True:
        shorter = address.rstrip("?!.,:;*_~'[]|\\{}$")
        if shorter.endswith(")") and shorter.count("(") < shorter.count(")"):
            surplus = shorter.count(")") - shorter.count("(")
            run = len(shorter) - len(shorter.rstrip(")"))
            shorter = shorter[: -min(surplus, run)]
        if shorter == address:
            return address
        address = shorter


# Block rules

_DISPLAY = {"$$": "$$", "\\[": "\\]"}


def _display_math(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`$$ … $$` and `\\[ … \\]` from the start of a line to the end of one, without blank lines."""
    if state.is_code_block(start):
        return False

    def line_at(number: int) -> str:
        return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].strip()

    first = line_at(start)
    opening = first[:2]
    closing = _DISPLAY.get(opening)
    if closing is None:
        return False
    lines, line = [first[2:]], start
    while closing not in lines[-1]:
        line += 1
        if line >= end or state.isEmpty(line) or state.sCount[line] < state.blkIndent:
            return False
        lines.append(line_at(line))
        if opening != closing and opening in lines[-1]:
            return False  # or unclosed openings would each look through all the lines below
    tex = "\n".join(lines)
    if tex.index(closing) != len(tex) - 2 or not tex[:-2].strip():
        return False
    if not silent:
        state.line = line + 1
        token = state.push("math_block", "div", 0)
        token.content, token.map = tex[:-2], [start, state.line]
    return True


# Core rules


def _replace_images(state: StateCore) -> None:
    """Images become links that name the host: loading one would tell that host who reads."""
    for token in state.tokens:
        if token.type == "inline" and token.children:
            token.children = list(_without_images(token.children))


def _without_images(tokens: Sequence[Token]) -> Iterator[Token]:
    depth = 0
    for token in tokens:
        if token.type == "image":
            yield from _image_link(token, is_linked=depth > 0)
            continue
        depth += token.nesting if token.tag == "a" else 0
        yield token


def _image_link(image: Token, *, is_linked: bool) -> Iterator[Token]:
    address = str(image.attrGet("src"))
    alt = _PARSER.renderer.renderInlineAsText(image.children, _PARSER.options, {}).strip()
    host = _host(address)
    words = ["image:", alt, f"({host})" if host else ""]
    text = Token("image_name", "span", 0, content=" ".join(filter(None, words)))
    if host and not is_linked:
        yield Token("link_open", "a", 1, attrs={"href": address})
        yield text
        yield Token("link_close", "a", -1)
    else:
        yield text


def _host(address: str) -> str:
    try:
        parts = urlsplit(address)
        return (parts.hostname or "") if parts.scheme in ("http", "https") else ""
    except ValueError:
        return ""


_PLAIN_ADDRESS = re.compile(r"https?://[a-z0-9.\-]+(?:[:/?#][A-Za-z0-9\-._~:/?#@!$&'()*+,;=]*)?")


class _Parser(MarkdownIt):
    """CommonMark and GFM, with the rules above."""

    renderer: "_Renderer"

    def __init__(self) -> None:
        super().__init__("commonmark", renderer_cls=_Renderer)
        self.inline = _Inline()
        self.configure(
            "commonmark",
            {"html": False, "maxNesting": NESTING_LIMIT, "tasklists": True, "alerts": True},
        )
        self.enable(["table", "strikethrough"])
        self.disable(["html_block", "html_inline"])
        self.inline.ruler.before("escape", "math", _inline_math)
        self.inline.ruler.push("address", _bare_address)
        interrupts = ["paragraph", "reference", "blockquote", "list"]
        self.block.ruler.before("fence", "math", _display_math, {"alt": interrupts})
        self.core.ruler.push("images", _replace_images)

    def normalizeLink(self, url: str) -> str:
        """Encode what an address may not hold: most hold nothing of it, and encoding is slow."""
        return url if _PLAIN_ADDRESS.fullmatch(url) else super().normalizeLink(url)

    def validateLink(self, url: str) -> bool:
        """Whether Markdown makes a link of it; if not, its source is shown as it is.

        Relative addresses pass, and sanitising leaves their text.
        """
        scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):", url)
        outward = scheme is None or scheme[1].lower() in ("http", "https", "mailto")
        return outward and len(url) <= ADDRESS_LIMIT


# HTML


class _Renderer(RendererHTML):
    """HTML of the tokens. What it may contain is decided by `sanitising` alone."""

    def softbreak(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return "<br>\n" if env.get("breaks") else "\n"

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        first, last = token.map or (0, 0)
        has_end = last - first == token.content.count("\n") + 2
        return _code_block(token.content, token.info, plain=bool(env["is_open"]) and not has_end)

    def code_block(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return _code_block(tokens[idx].content, "", plain=True)

    def list_item_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        html = self.renderToken(tokens, idx, options, env)
        checked = tokens[idx].meta.get("checked")
        if checked is None:
            return html
        sign, name = ("☑", "Done") if checked else ("☐", "Not done")
        return f'{html}<span class="task-box" role="img" aria-label="{name}">{sign}</span> '

    def table_open(self, *args: Any) -> str:
        return '<div class="table-scroll" tabindex="0" role="group" aria-label="Table"><table>\n'

    def table_close(self, *args: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, *args: Any) -> str:
        return _cell(tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, *args: Any) -> str:
        return _cell(tokens[idx])

    def image_name(self, tokens: Sequence[Token], idx: int, *args: Any) -> str:
        return f'<span class="image">{escape(tokens[idx].content)}</span>'

    def math_inline(self, tokens: Sequence[Token], idx: int, *args: Any) -> str:
        token = tokens[idx]
        names = "math math-display" if token.markup else "math"
        return f'<span class="{names}">{escape(token.content.strip())}</span>'

    def math_block(self, tokens: Sequence[Token], idx: int, *args: Any) -> str:
        return f'<div class="math math-display">{escape(tokens[idx].content.strip())}</div>\n'


def _cell(token: Token) -> str:
    style = str(token.attrGet("style") or "")
    align = style.removeprefix("text-align:")
    return f'<{token.tag} class="align-{align}">' if align else f"<{token.tag}>"


_LANGUAGE = re.compile(r"[^\s,:{}=]{1,40}")


def _code_block(code: str, info: str, *, plain: bool) -> str:
    language = _LANGUAGE.search(unescapeAll(info[:200]))
    label = language[0].lower() if language else "text"
    block = "code-block language-mermaid" if label == "mermaid" else "code-block"
    body = escape(code) if plain else highlight(code, label)
    return (
        f'<div class="{block}"><div class="code-head"><span class="code-lang">{escape(label)}'
        f'</span>{COPY_PLACE}</div><pre tabindex="0"><code class="highlight">{body}</code></pre>'
        "</div>\n"
    )


_PARSER = _Parser()
