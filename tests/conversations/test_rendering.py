"""Text to HTML: Markdown as models write it, attacks, hostile text, and streaming (H17, H21, H22,
H25, A1 to A4, A22)."""

import json
import random
import re
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conversations.rendering import (
    BlockRenderer,
    blocks,
    highlight_json,
    highlighting,
    markdown,
    render,
    segments,
)

ROOT = Path(__file__).parents[2]
SAMPLES = {
    path.stem: path.read_bytes().decode()
    for path in sorted((ROOT / "tests/samples/markdown").glob("*.md"))
}
COPY_BUTTON = '<button type="button" class="code-copy" data-copy-code>Copy</button>'

_ELEMENTS = """
    a blockquote br button code div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong
    table tbody td th thead tr ul
"""
ELEMENTS = set(_ELEMENTS.split())
ATTRIBUTES = {"class", "href", "rel", "target", "start", "tabindex", "role", "aria-label"}


def page(text, **options):
    return "".join(render(text, **options))


def flat(text, **options):
    return re.sub(r"\s*\n\s*", "", page(text, **options))


def words(html):
    """What a reader sees, without the chrome of code blocks."""
    html = re.sub(r'<div class="code-head">.*?</div>', "", html, flags=re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", html))


class _Audit(HTMLParser):
    """Collects whatever an answer must not have."""

    def __init__(self):
        super().__init__()
        self.faults = []
        self.stack = []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag not in ELEMENTS:
            self.faults.append(tag)
        allowed = {"type", "class", "data-copy-code"} if tag == "button" else ATTRIBUTES
        self.faults += [name for name in names if name not in allowed]
        if tag == "a" and not re.match(r"(https?|mailto):", names.get("href", "")):
            self.faults.append(f"href {names.get('href')}")
        if tag == "a" and names.get("rel") != "noopener noreferrer nofollow":
            self.faults.append("rel")
        if tag not in ("br", "hr"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"unbalanced {tag}")

    def handle_comment(self, data):
        self.faults.append("comment")


def faults(html):
    audit = _Audit()
    audit.feed(html)
    audit.close()
    return audit.faults + audit.stack


def streamed(text, sizes, **options):
    """What is shown after each piece, and the renderer at the end."""
    renderer, shown, start = BlockRenderer(**options), [], 0
    for size in sizes:
        if start >= len(text):
            break
        renderer.feed(text[start : start + size])
        start = min(len(text), start + size)
        shown.append((start, "".join(renderer.closed) + renderer.open_html()))
    renderer.feed(text[start:])
    return renderer, shown


def pieces(seed, longest):
    pick = random.Random(seed)
    while True:
        yield pick.randint(1, longest)


# Markdown as people and models write it


def test_each_top_level_block_is_one_item():
    html = render("# A\n\npara\n- x\n- y\n\n```\ncode\n```\n> q\n")
    assert [block[1:].partition(" ")[0].partition(">")[0] for block in html] == [
        "h1",
        "p",
        "ul",
        "div",
        "blockquote",
    ]


def test_nothing_gives_no_blocks():
    assert render("") == render("\n \n") == []


def test_a_list_may_follow_a_paragraph_without_a_blank_line():
    assert flat("Here are:\n- a\n- b") == "<p>Here are:</p><ul><li>a</li><li>b</li></ul>"


@pytest.mark.parametrize("indent", [2, 3, 4])
def test_a_nested_list_may_be_indented_by_two_three_or_four_spaces(indent):
    space = " " * indent
    assert flat(f"- a\n{space}- b\n- c") == ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>")
    if indent > 2:  # under "1. " the text begins at column 3
        assert "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>" in flat(f"1. a\n{space}- b\n2. c")


def test_a_fence_in_a_list_item_is_code_and_the_list_goes_on():
    html = page(SAMPLES["fences-in-lists"])
    assert html.count("<ol>") == 1
    assert html.count('<div class="code-block">') == 2
    assert "# a comment, not a heading" in words(html)
    assert "<h1>" not in html


def test_a_longer_fence_holds_a_shorter_one():
    html = render(SAMPLES["nested-fences"])
    assert len(html) == 4
    assert "```bash\nmake run\n```" in words(html[1])


def test_an_unclosed_fence_is_code_to_the_end():
    html = render(SAMPLES["unclosed-fence"])
    assert len(html) == 2
    assert "Vec<String>" in words(html[1])
    assert "# not a heading" in words(html[1])


def test_a_code_block_has_its_language_and_a_copy_button():
    assert flat('```python title="x"\npass\n```') == (
        '<div class="code-block"><div class="code-head"><span class="code-lang">python</span>'
        f'{COPY_BUTTON}</div><pre tabindex="0"><code class="highlight"><span class="k">pass</span>'
        "</code></pre></div>"
    )


@pytest.mark.parametrize(
    ("info", "label"),
    [("", "text"), ("Python", "python"), ("{r, echo=F}", "r"), ("python:a.py", "python"),
     ("c++", "c++"), ("  js  ", "js"), ("<b>", "<b>"), ("x" * 99, "x" * 40)],
)  # fmt: skip
def test_the_language_is_the_first_word_after_the_fence(info, label):
    assert f'<span class="code-lang">{escape(label, quote=False)}</span>' in page(
        f"~~~{info}\nx\n~~~"
    )


def test_an_unknown_language_and_a_diagram_stay_plain():
    assert '<code class="highlight">a --&gt; b\n</code>' in page("```nolang\na --> b\n```")
    html = page("```mermaid\na --> b\n```")
    assert '<div class="code-block language-mermaid">' in html
    assert "<span" not in html.split("<pre")[1]


@pytest.mark.parametrize("language", sorted(highlighting.LANGUAGES))
def test_highlighting_never_changes_the_code(language):
    code = "\n\n def f(x): return `x` + '1' /* \t*/ // é\n<a b=\"c\">&amp;</a>\n#{1} $x @y\n\n"
    html = page(f"```{language}\n{code}```")
    assert words(html).rstrip("\n") == code.rstrip("\n")
    assert faults(html) == []


def test_every_language_listed_is_one_that_pygments_has():
    assert set(highlighting._BY_ALIAS.values()) == highlighting.LANGUAGES
    assert highlighting.LIMITS.keys() <= highlighting.LANGUAGES


def test_long_code_is_not_highlighted():
    line = "x = 1\n"
    short, long = line * 100, line * (highlighting.CODE_LIMIT // len(line) + 1)
    assert '<span class="mi">' in page(f"```python\n{short}```")
    assert '<span class="mi">' not in page(f"```python\n{long}```")
    assert words(page(f"```python\n{long}```")).strip() == long.strip()


def test_a_table_scrolls_by_itself_and_is_aligned_by_class():
    html = page("| a | b | c |\n|:--|:-:|--:|\n| 1 | `x \\| y` | **z** |\n")
    assert html.startswith(
        '<div class="table-scroll" tabindex="0" role="group" aria-label="Table">'
    )
    assert '<td class="align-center"><code>x | y</code></td>' in html
    assert "style" not in html


def test_task_lists_show_what_is_done_without_form_controls():
    html = page("- [ ] a\n- [x] b")
    assert '<span class="task-box" role="img" aria-label="Not done">☐</span> a' in html
    assert '<span class="task-box" role="img" aria-label="Done">☑</span> b' in html
    assert "<input" not in html


@pytest.mark.parametrize(
    ("text", "html"),
    [("**「重点」**是", "<strong>「重点」</strong>是"),
     ("**注意：**请看", "<strong>注意：</strong>请看"),
     ("这是**“x”**的", "<strong>“x”</strong>"),
     ("**テスト（例）**です", "<strong>テスト（例）</strong>"),
     ("**\"강조\"**는", '<strong>"강조"</strong>는'),
     ("2 * 3 * 4", "2 * 3 * 4"), ("snake_case_name", "snake_case_name")],
)  # fmt: skip
def test_bold_works_beside_chinese_japanese_and_korean(text, html):
    assert html in page(text)


def test_strikethrough_takes_two_tildes():
    assert "<s>a</s> ~b~" in page("~~a~~ ~b~")


def test_html_is_shown_as_text():
    html = page(SAMPLES["html-as-text"])
    for text in ("<script>alert(1)</script>", "Vec<String>", "<details>", "<!-- a comment"):
        assert text in words(html)
    assert "<strong>inside</strong>" in html


def test_single_newlines_are_line_breaks_only_where_asked_for():
    assert page("a\nb") == "<p>a\nb</p>\n"
    assert page("a\nb", breaks=True) == "<p>a<br>\nb</p>\n"


@pytest.mark.parametrize(
    ("text", "tex"),
    [("$E=mc^2$", "E=mc^2"), ("\\(a<b\\)", "a<b"), ("因$x$为", "x"), ("($\\$5$)", "\\$5"),
     ("$5x + 1$ in 1905", "5x + 1"), ("a $x$, b $y$", "x"), ("`a` $b$", "b")],
)  # fmt: skip
def test_inline_math_keeps_its_source(text, tex):
    assert f'<span class="math">{escape(tex, quote=False)}</span>' in page(text)


@pytest.mark.parametrize(
    "text",
    ["$5 and $10", "from $5 to $10.", "$5, or 10$ for two", "US$3 and CA$4", "$5/$10", "`$x$`",
     "\\$x\\$", "$ x $", "$$$$", "a $HOME b", "cost: 5$ or 6$", "$5\n\n$6", "\\\\(x\\\\)"],
)  # fmt: skip
def test_prices_are_not_math(text):
    assert "math" not in page(text)


def test_display_math_may_hold_what_looks_like_a_list_or_heading():
    block = '<div class="math math-display">'
    assert flat("$$\na\n- b\n= c\n$$") == f"{block}a- b= c</div>"
    assert flat("so\n\\[\nx\n\\]\nthen") == f"<p>so</p>{block}x</div><p>then</p>"
    assert flat("$$ x $$") == f"{block}x</div>"
    assert flat("- a\n  $$\n  x\n  $$") == f"<ul><li>a{block}x</div></li></ul>"
    assert '<span class="math math-display">x</span> b' in page("a $$x$$ b")


@pytest.mark.parametrize(
    ("text", "address", "after"),
    [
        ("see https://a.b/c.", "https://a.b/c", "."),
        ("(https://a.b/c_(d)),", "https://a.b/c_(d)", ")"),
        ("**https://a.b**", "https://a.b", "</strong>"),
        ("请看https://a.b。好", "https://a.b", "。好"),
        ("x <https://a.b>", "https://a.b", ""),
        ("HTTP://a.b/?q=1&r=2#s", "HTTP://a.b/?q=1&amp;r=2#s", ""),
    ],
)
def test_bare_addresses_become_links(text, address, after):
    assert f">{address}</a>{after}" in page(text)


@pytest.mark.parametrize(
    "text", ["xhttps://a.b", "ftp://a.b", "https://", "https:// a", "`https://a.b`"]
)
def test_what_only_resembles_an_address_does_not(text):
    assert "<a " not in page(text)


def test_links_open_elsewhere_and_only_lead_outside():
    html = page(SAMPLES["links-and-images"])
    outward = (
        'href="mailto:a@b.example" target="_blank" rel="noopener noreferrer nofollow">mail</a>'
    )
    assert outward in html
    assert "rel, frag," in words(html)
    assert "[js](javascript:alert(1))" in words(html)


def test_a_text_is_the_same_with_any_line_ends():
    text = SAMPLES["a-long-answer"]
    assert render(text) == render(text.replace("\n", "\r\n")) == render(text.replace("\n", "\r"))


# Attacks


VECTORS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)><math><mtext></mtext></math>",
    '<iframe src="javascript:alert(1)"></iframe>',
    "<form action=//evil.example><button>Log in</button><input name=password></form>",
    "<style>body{display:none}</style><base href=//evil.example><meta http-equiv=refresh>",
    '<object data="data:text/html,x"></object><embed src=x>',
    "</p></div></div><h1 id=title>forged</h1>",
    "<a href=javascript:alert(1) onclick=alert(1)>x</a>",
    "[x](javascript:alert(1)) [x](JaVaScRiPt:alert(1)) [x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1)) [x](javascript&colon;alert(1)) [x](\x01javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=) [x](vbscript:x) [x](file:///etc/passwd)",
    "<javascript:alert(1)> <data:text/html,x>",
    '[x](https://a.example "onmouseover=alert(1)") [x](https://a.example" onclick="alert(1))',
    "[x](//evil.example) [x](/accounts/logout/) [x](#id) [x](?a=b)",
    '![x](https://a.example/"onerror="alert(1)) ![" onerror="alert(1)](https://a.example)',
    "[a]: javascript:alert(1)\n\n[a] [x][a] ![x][a]",
    '```"><script>alert(1)</script>\nx\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>alert(1)</script>`",
    "$</span><script>alert(1)</script>$ \\(<img src=x onerror=alert(1)>\\)",
    "$$\n</div><script>alert(1)</script>\n$$",
    "| <script> | <b onclick=x> |\n|---|---|\n| </table><script>alert(1)</script> | x |",
    "<!-- <script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]> <?php echo 1 ?> <!DOCTYPE html>",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "<div data-copy-code hx-get=/chat/ hx-trigger=load id=x class=code-copy>x</div>",
    '<span class="code-tools"></span> `<span class="code-tools"></span>`',
    'https://a.example/<script>alert(1)</script> https://a.example/"onclick=alert(1)',
    "<scr<script>ipt>alert(1)</scr</script>ipt> <noscript><p title='</noscript><img src=x>'>",
    "- [x] <script>alert(1)</script>\n1. <img src=x onerror=alert(1)>",
    "> [!NOTE]\n> <script>alert(1)</script>\n\n> [!<script>]\n> x",
]


@pytest.mark.parametrize("text", VECTORS)
@pytest.mark.parametrize("breaks", [False, True])
def test_nothing_in_a_text_becomes_more_than_text(text, breaks):
    for block in render(text, breaks=breaks):
        assert faults(block) == []


@pytest.mark.parametrize("text", VECTORS)
def test_an_attack_gives_the_same_page_for_each_split(text):
    whole = render(text)
    for cut in range(1, len(text)):
        renderer = BlockRenderer()
        for piece in (text[:cut], text[cut:]):
            renderer.feed(piece)
            assert faults(renderer.open_html()) == []
            assert all(faults(block) == [] for block in renderer.closed)
        assert renderer.finish() == whole


@pytest.mark.parametrize("text", VECTORS)
def test_an_attack_in_an_unsafe_renderer_is_still_sanitised(text, monkeypatch):
    monkeypatch.setattr(markdown._Renderer, "text", lambda _, tokens, idx, *__: tokens[idx].content)
    monkeypatch.setattr(markdown._PARSER, "renderer", markdown._Renderer(markdown._PARSER))
    renderer = BlockRenderer()
    renderer.feed(text.replace("`", ""))
    for block in renderer.finish():
        assert faults(block) == []


def test_a_text_cannot_make_a_copy_button():
    assert "<button" not in page('<span class="code-tools"></span> [a](<https://x/<button>>)')


@pytest.mark.parametrize(
    "text",
    ["![a](https://h.example/i.png)", "![a][r]\n\n[r]: https://h.example/i.png",
     "[![a](https://h.example/i.png)](https://l.example)", "![](https://h.example/i.png)"],
)  # fmt: skip
def test_an_image_is_a_link_that_names_its_host(text):
    html = page(text)
    assert "<img" not in html
    assert "h.example)" in words(html)
    assert html.count("<a ") == 1


@pytest.mark.parametrize(
    "text",
    [
        "<img srcset=//h.example/i.png>",
        "![a](//h.example/i.png)",
        "![a](data:image/png;base64,AA)",
        "![a](/media/i.png)",
        "![a](http://[)",
    ],
)
def test_an_image_from_nowhere_outside_is_not_even_a_link(text):
    assert "<img" not in page(text)
    assert "<a " not in page(text)


# Streaming


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seed", range(4))
def test_a_streamed_answer_ends_as_the_page_after_a_reload(name, seed):
    renderer, _ = streamed(SAMPLES[name], pieces(seed, 20))
    before = list(renderer.closed)
    after = renderer.finish()
    assert after == render(SAMPLES[name])
    assert renderer.open_html() == ""
    assert renderer.changed == [i for i, html in enumerate(before) if after[i] != html]
    if name not in ("references", "links-and-images"):
        assert renderer.changed == []


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_shown_depends_on_the_text_and_not_on_its_pieces(name):
    text = SAMPLES[name]
    by_character = dict(streamed(text, iter(lambda: 1, 0))[1])
    for seed in range(6):
        for position, html in streamed(text, pieces(seed, 40))[1]:
            assert html == by_character[position]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_half_finished_page_is_always_whole_html(name):
    for _, html in streamed(SAMPLES[name], iter(lambda: 1, 0))[1]:
        assert faults(html) == []


@pytest.mark.parametrize("name", SAMPLES)
def test_closed_blocks_stay_as_they_are(name):
    renderer = BlockRenderer()
    seen: list[str] = []
    for character in SAMPLES[name]:
        renderer.feed(character)
        assert renderer.closed[: len(seen)] == seen
        seen = list(renderer.closed)


def test_a_definition_below_its_use_changes_the_block_above():
    renderer = BlockRenderer()
    renderer.feed("See [a] and [b].\n\ntext\n\n[a]: https://a.example\n\n[a]\n\n")
    assert renderer.closed[0] == "<p>See [a] and [b].</p>\n"
    assert 'href="https://a.example"' in renderer.closed[2]
    html = renderer.finish()
    assert renderer.changed == [0]
    assert 'href="https://a.example"' in html[0]
    assert html == render("See [a] and [b].\n\ntext\n\n[a]: https://a.example\n\n[a]\n\n")


def test_text_shows_before_its_line_ends():
    renderer = BlockRenderer()
    renderer.feed("# Title\nSome **bold** te")
    assert renderer.closed == ["<h1>Title</h1>\n"]
    assert renderer.open_html() == "<p>Some <strong>bold</strong> te</p>\n"


@pytest.mark.parametrize(
    "mark", ["-", "=", "- ", "1", "1.", "#", "```", "```py", "|", "*", ">", "$$"]
)
def test_a_half_line_of_marks_does_not_disturb_what_is_above(mark):
    renderer = BlockRenderer()
    renderer.feed("Some text\n" + mark)
    assert renderer.open_html() == "<p>Some text</p>\n"


def test_open_code_is_plain_until_it_closes():
    renderer = BlockRenderer()
    renderer.feed("```python\nreturn 1\n``")
    assert '<code class="highlight">return 1\n</code>' in renderer.open_html()
    renderer.feed("`\n")
    assert '<span class="k">return</span>' in renderer.closed[0]
    assert renderer.open_html() == ""


def test_code_in_an_open_list_is_plain_only_while_it_is_open():
    renderer = BlockRenderer()
    renderer.feed("- a\n  ```python\n  return 1\n")
    assert '<span class="k">' not in renderer.open_html()
    renderer.feed("  ```\n")
    assert '<span class="k">' in renderer.open_html()


# Bounds


LONG = {
    "fence": ("```text\n", "some code <here>\n"),
    "line": ("", "word "),
    "line without spaces": ("", "x"),
    "paragraph": ("", "some words of text\n"),
    "list": ("", "- an item\n  - nested\n"),
    "numbered list": ("", "1. an item\n"),
    "one item": ("- a\n", "  - nested\n"),
    "quote": ("", "> words\n"),
    "table": ("| a | b |\n|---|---|\n", "| c | d |\n"),
    "code by indentation": ("", "    code\n"),
    "math": ("$$\n", "x + y\n"),
    "definitions": ("", "[a]: http://a.example\n"),
    "blank list": ("- a\n", "\n"),
    "fence in a list": ("- ```\n", "  code\n"),
}  # fmt: skip
LARGEST = segments.HARD_LIMIT + segments.LINE_LIMIT


@pytest.mark.parametrize("name", LONG)
def test_the_open_part_is_bounded_and_no_text_is_rendered_twice(name, monkeypatch):
    start, unit = LONG[name]
    text = start + unit * (150_000 // len(unit))
    parsed: list[int] = []
    parse = markdown._markdown

    def counted(part, env):
        parsed.append(len(part.text))
        return parse(part, env)

    monkeypatch.setattr(markdown, "_markdown", counted)
    renderer = BlockRenderer()
    for at in range(0, len(text), 1000):
        renderer.feed(text[at : at + 1000])
        part = renderer._segmenter.open()
        most = segments.CODE_LIMIT if name == "fence" else segments.HARD_LIMIT
        assert part is None or len(part.text) <= most + segments.LINE_LIMIT
    html = renderer.finish()
    assert max(parsed, default=0) <= LARGEST
    # Heads of tables are repeated; with definitions, all that may use them is rendered once more.
    assert sum(parsed) <= (2 if name == "definitions" else 1.2) * len(text)
    assert html == render(text)
    if unit.strip() and name != "definitions":
        mark = re.findall(r"[a-z]+", unit)[0]
        assert words("".join(html)).count(mark) >= text.count(mark)


@pytest.mark.parametrize("name", LONG)
def test_long_text_is_cut_in_the_same_places_however_it_comes(name):
    start, unit = LONG[name]
    text = start + unit * (30_000 // len(unit))
    renderers = [streamed(text, pieces(seed, 900))[0] for seed in range(3)]
    assert {tuple(renderer.closed) for renderer in renderers} == {tuple(renderers[0].closed)}
    assert {tuple(renderer.finish()) for renderer in renderers} == {tuple(render(text))}


def test_a_long_numbered_list_goes_on_counting_and_a_long_table_keeps_its_head():
    starts = [int(n) for n in re.findall(r'<ol start="(\d+)"', page("1. an item\n" * 3_000))]
    items = page("1. an item\n" * 3_000).split("<ol")
    assert starts[0] == items[1].count("<li>") + 1
    assert starts[1] == starts[0] + items[2].count("<li>")
    table = render("| a | b |\n|---|---|\n" + "| c | d |\n" * 3_000)
    assert len(table) > 2
    assert all("<th>a</th>" in part for part in table)


def test_a_long_fence_keeps_its_language_in_each_part():
    html = render("```python\n" + "x = 1\n" * 25_000 + "```\nafter\n")
    assert len(html) == 4
    assert all('<span class="code-lang">python</span>' in part for part in html[:3])
    assert not any('<span class="mi">' in part for part in html)
    assert html[3] == "<p>after</p>\n"


HOSTILE = {
    unit: unit * (20_000 // len(unit))
    for unit in (
        "[", "]", "![", "[a](", "[a][", "*", "**a ", "_a ", "*a**b***", "`", "a`b``", ">", "> ",
        "- ", "1. ", "<", "<!--", "<![", "<a ", "&", "\\(", "\\[x\n", "|", "$", "$$", "$$x\n", "~~",
        "http://", "://", "a\n", "- a\n", "#\n", "```\n", "~~~a\n", "[\n", "]\n", "[](<", "\t", " ",
        "\r", "\x00", "\ud800", "-\n", "|-|\n", "[a]: b\n", "\u0300", "👩\u200d",
    )
} | {
    "ladder": "".join(f"{'  ' * i}- a\n" for i in range(150)),
    "wide table": "|" * 10_000 + "\n" + "|-" * 10_000 + "|\n" + "|" * 10_000,
    "unfilled rows": "|" * 300 + "\n" + "|-" * 300 + "|\n" + "|\n" * 5_000,
    "deep quotes": (">" * 99 + "a\n") * 200,
    "references": f"[a]: http://x.y/{'b' * 1900}\n\n" + "[a]" * 5_000,
    "long line": "x" * 200_000,
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_shown_whole_and_in_bounds(name):
    text = HOSTILE[name]
    renderer, _ = streamed(text, pieces(0, 4_000))
    html = "".join(renderer.finish())
    assert renderer.closed == render(text)
    assert faults(html) == []
    assert len(html) <= markdown.GROWTH_LIMIT * len(text) + 5_000
    for letter in "ab":
        if name not in ("[a]: b\n", "references", "~~~a\n"):
            assert words(html).count(letter) >= text.count(letter) - html.count("markdown-alert")


@pytest.mark.parametrize(
    "text",
    ["[" * 50, "[" * 13 + "a", ">" * 40 + "a", "|" * 30 + "\n" + "|-" * 30 + "|\n" + "|\n" * 90],
)
def test_what_would_cost_too_much_is_plain_text(text):
    html = render(text)
    assert len(html) == 1
    assert html[0] == f'<pre class="plain" tabindex="0">{escape(text)}</pre>'


def test_a_large_but_honest_table_and_many_links_are_rendered():
    row = "| " + " | ".join(str(n) for n in range(40)) + " |\n"
    table = page(row + "|---" * 40 + "|\n" + row * 30)
    assert "plain" not in table
    assert "plain" not in page("[a](https://a.example/b) " * 150)


@pytest.mark.parametrize("part", ["_PARSER", "sanitise", "highlight"])
def test_whatever_fails_the_text_is_shown_escaped(part, monkeypatch):
    calls = []

    def fail(*args, **_):
        if part == "sanitise" and args[0].startswith('<pre class="plain"'):
            return args[0]
        calls.append(args)
        raise RuntimeError

    broken = type("Broken", (), {"parse": fail})() if part == "_PARSER" else fail
    monkeypatch.setattr(markdown, part, broken)
    text = "- <b>\n  ```python\n  x\n  ```\n"
    renderer = BlockRenderer()
    renderer.feed(text)
    assert escape(text, quote=False) in renderer.open_html()
    assert escape(text, quote=False) in renderer.finish()[0]
    assert calls


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(30))
def test_random_text_never_raises_and_streams_as_it_reloads(seed):
    pick = random.Random(seed)
    signs = [
        *"\n\n\n  \t[]()*_`~<>#|-+=:!&\\$\"'ab1.。「\r\x00",
        *("```", "\n\n", "    ", "- ", "1. ", "> ", "|--|", "[a]: ", "[a]", "http://a.b", "$$"),
        *("\\[", "\\]", "<!--", "~~~", "[x] ", "![", "](", "\n---\n", "é", "👩‍👩", "\ud83d"),
    ]
    text = "".join(pick.choices(signs, k=600))
    whole = render(text)
    assert faults("".join(whole)) == []
    by_character = dict(streamed(text, iter(lambda: 1, 0))[1])
    for longest in (3, 50):
        renderer, shown = streamed(text, pieces(seed, longest))
        assert all(html == by_character[position] for position, html in shown)
        assert renderer.finish() == whole


def test_rendered_texts_are_kept_within_a_bound(monkeypatch):
    cache = blocks._Cache(10_000)
    monkeypatch.setattr(blocks, "_cache", cache)
    first = render("kept")
    first.append("changed by a caller")
    assert render("kept") == ["<p>kept</p>\n"]
    assert render("kept\n", breaks=True) is not render("kept\n")
    for number in range(1_000):
        render(f"text {number}")
    assert 0 < cache._size <= 10_000
    assert cache._size == sum(size for _, size in cache._kept.values())
    render("x" * 20_000)
    assert cache._size <= 10_000


# JSON


def test_json_is_pretty_and_highlighted_from_a_value_or_a_text():
    value = {"a": [1, None, "<b>é"], "n": {}}
    assert highlight_json(value) == highlight_json(json.dumps(value))
    assert '<span class="nt">"a"</span>' in highlight_json(value)
    assert words(highlight_json(value)) == json.dumps(value, indent=2, ensure_ascii=False)


@pytest.mark.parametrize(
    "text", ["{broken", "</pre><script>alert(1)</script>", "[" * 100_000, "\ud800"]
)
def test_what_is_not_json_is_shown_as_it_is(text):
    html = highlight_json(text)
    assert html.startswith('<pre class="plain" tabindex="0">')
    assert faults(html) == []
    assert words(html) == text.replace("\ud800", "\ufffd")


def test_much_json_is_escaped_only():
    html = highlight_json(["<b>"] * 50_000)
    assert "<span" not in html
    assert faults(html) == []


# The style sheet


def luminance(colour):
    def linear(part):
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[i : i + 2]) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_colours_of_code_are_readable_and_the_same_for_both_ways_to_dark():
    css = (ROOT / "static/css/highlight.css").read_text()
    themes = [
        dict(re.findall(r"(--code-[\w-]+): (#\w{6});", block))
        for block in re.findall(r"\{([^{}]*--code-ground[^{}]*)\}", css)
    ]
    light, dark, system = themes
    assert dark == system
    assert light.keys() == dark.keys()
    for theme, ground in ((light, "#f6f7f9"), (dark, "#15181d")):
        assert theme.pop("--code-ground") == ground
        for name, colour in theme.items():
            pair = sorted([luminance(colour) + 0.05, luminance(ground) + 0.05])
            assert pair[1] / pair[0] >= 4.5, name


def test_the_style_sheet_names_only_classes_that_pygments_has():
    css = (ROOT / "static/css/highlight.css").read_text()
    rules = css[css.index(".highlight {") :]
    named = set(re.findall(r"\.([a-z]\w*)(?=[ ,])", rules)) - {"highlight"}
    assert named <= highlighting.CLASSES
