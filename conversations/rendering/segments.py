"""Where a text that is still growing may be cut, so that no later character changes what was cut.

A segment is one or more whole Markdown blocks. The segmenter reads complete lines and looks at each
once, so feeding costs the same at the start and at the end of an answer, and its state depends on
the text alone, never on the pieces it came in. It is cautious: where a line might still belong to
the block before, it stays there, as the Markdown parser sorts out a segment with several blocks.

Sizes are bounded here, before any work is done. A list, table, quote or paragraph that grows too
long is continued in a new segment at an item, row or line; what cannot be cut is plain text from
there on.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

# In characters, each line counting for LINE_WEIGHT more: a thousand items `- a` cost as much as 30
# KB of prose, which takes 0.6 to 0.8 ms a KB. The open segment is rendered again for each view of
# it; these limits keep that below 10 ms for what models write and 50 ms for the worst text found.
LINE_WEIGHT = 24
SOFT_LIMIT = 6_000  # cut at the next item, row, quoted line or line of a paragraph
HARD_LIMIT = 9_000  # no such place came: plain text
LINE_LIMIT = 4_000  # no prose has such lines; what follows in the line is plain text
CODE_LIMIT = 64_000  # a longer fence becomes several blocks, none of them highlighted


class Kind(Enum):
    """How a segment is to be shown."""

    MARKDOWN = auto()
    CODE = auto()
    PLAIN = auto()


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the text, at most HARD_LIMIT + LINE_LIMIT long (CODE_LIMIT + LINE_LIMIT for code).

    `info` is the text after a fence's opening; `is_part` marks code cut out of a longer fence;
    `number` is the number that a continued ordered list goes on with.
    """

    kind: Kind
    text: str
    info: str = ""
    is_part: bool = False
    number: int | None = None


class _State(Enum):
    """What the lines of the open segment are."""

    EMPTY = auto()
    PARAGRAPH = auto()  # also tables, setext headings and link definitions
    LIST = auto()
    QUOTE = auto()
    INDENTED = auto()
    MATH = auto()
    FENCE = auto()
    OVERFLOW = auto()  # past HARD_LIMIT: plain text until something certainly begins


_UNSAFE = re.compile("[\0\ud800-\udfff]")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|(?:-[ \t]*){3,})$")
_FENCE = re.compile(r"(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
_MARKER = re.compile(
    r"(?:(?P<number>\d{1,9})(?P<end>[.)])|(?P<bullet>[-+*]))(?:[ \t]+(?P<text>\S)|$)"
)
_TABLE_RULE = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$")
_MATH = {"$$": "$$", "\\[": "\\]"}
# A half line of marks alone could still make a heading of what is above it, or open a block.
_UNDECIDED = re.compile(r"\s*(?:[-=*+#~_|>$:\\\[\s]+|\d{1,9}[.)]?\s*|(?:```|~~~).*|`{1,2})$")


def clean(text: str) -> str:
    """The text without what HTML or UTF-8 cannot hold: NUL and lone surrogates."""
    return _UNSAFE.sub("\ufffd", text)


def _indent(line: str) -> int:
    """Columns before the first character; a tab counts as the four that make code."""
    space = line[: len(line) - len(line.lstrip(" \t"))]
    return len(space) + 3 * space.count("\t")


def _columns(row: str) -> int:
    return row.strip(" \t\n|").count("|") + 1


class Segmenter:
    """Cuts a growing text into segments. `feed` and `finish` give those that are final."""

    def __init__(self) -> None:
        self._final: list[Segment] = []
        self._carriage = False  # the text so far ends in CR, and LF may follow
        self._half: list[str] = []  # the pieces of the line that has not ended yet
        self._half_size = 0
        self._in_long_line = False  # the line began in an earlier cut of it
        self._lines: list[str] = []  # of the open segment
        self._size = 0
        self._number: int | None = None
        self._clear()

    def feed(self, text: str) -> list[Segment]:
        """The segments that became final with `text`."""
        if self._carriage:
            text = "\r" + text
        self._carriage = text.endswith("\r")
        if self._carriage:
            text = text[:-1]
        text = clean(text).replace("\r\n", "\n").replace("\r", "\n")
        start = 0
        while (end := text.find("\n", start) + 1) > 0:
            self._end_line("".join([*self._half, text[start:end]]))
            start = end
        self._half.append(text[start:])
        self._half_size += len(text) - start
        if self._half_size > LINE_LIMIT:
            self._keep_half(self._cut_long("".join(self._half)))
        return self._take_final()

    def finish(self) -> list[Segment]:
        """The text is complete: all that is left."""
        if self._carriage or self._half_size:
            self._end_line("".join(self._half) + "\n" * self._carriage)
            self._carriage = False
        self._close()
        return self._take_final()

    def open(self) -> Segment | None:
        """What is not final yet, half line included. None where there is nothing to show.

        It is read as if the text ended here, except that a half line which may yet become
        anything is held back: a lone `-` under a paragraph would make a heading of it.
        """
        half = "".join(self._half)
        if self._state is _State.FENCE:
            may_close = not self._in_long_line and not half.strip(" \t" + self._fence[0])
            return self._segment("" if may_close else self._unindented(half))
        if self._in_long_line:
            return Segment(Kind.PLAIN, half)
        if _UNDECIDED.match(half):
            half = ""
        return self._segment(half) if self._lines or half else None

    # Lines

    def _keep_half(self, line: str) -> None:
        self._half = [line] if line else []
        self._half_size = len(line)

    def _end_line(self, line: str) -> None:
        self._take(self._cut_long(line))
        self._keep_half("")
        self._in_long_line = False

    def _cut_long(self, line: str) -> str:
        """Take what exceeds LINE_LIMIT and return the rest. The cut hangs on what is before it."""
        while len(line) > LINE_LIMIT:
            cut = line.rfind(" ", LINE_LIMIT - 200, LINE_LIMIT) + 1 or LINE_LIMIT
            self._take(line[:cut])
            self._in_long_line = True
            line = line[cut:]
        return line

    def _take(self, line: str) -> None:
        if self._state is _State.FENCE:
            self._take_code(line)
        elif self._in_long_line:
            self._close()
            self._final.append(Segment(Kind.PLAIN, line))
        elif not line.strip(" \t\n"):
            self._take_blank(line)
        else:
            if self._state is not _State.EMPTY and self._begins_block(line):
                self._close()
            if self._state is _State.EMPTY:
                self._begin(line)
            elif self._size < SOFT_LIMIT or not self._divide(line):
                self._append(line)

    def _take_blank(self, line: str) -> None:
        if self._state in (_State.PARAGRAPH, _State.QUOTE, _State.MATH):
            self._close()  # these cannot go on after a blank line
        elif self._state is not _State.EMPTY:
            self._append(line)
            self._after_blank = True

    def _take_code(self, line: str) -> None:
        bare = line.strip(" \t\n")
        is_closing = (
            not self._in_long_line
            and len(bare) >= len(self._fence)
            and not bare.strip(self._fence[0])
            and _indent(line) <= 3
        )
        if is_closing:
            self._close()
            return
        self._lines.append(self._unindented(line))
        self._size += len(line)
        if self._size >= CODE_LIMIT:
            self._is_part = True
            self._final.append(self._segment())
            self._lines, self._size = [], 0

    def _unindented(self, line: str) -> str:
        """A line of code, less the indentation that its opening fence had."""
        if self._in_long_line:
            return line
        return line[min(self._fence_indent, len(line) - len(line.lstrip(" "))) :]

    # Blocks

    def _begin(self, line: str) -> None:
        """The first line of a segment."""
        indent, bare = _indent(line), line.strip(" \t\n")
        if indent > 3:
            self._state = _State.INDENTED
        elif fence := self._opens_fence(bare):
            self._state = _State.FENCE
            self._fence, self._info, self._fence_indent = fence["mark"], fence["info"], indent
            return
        elif _HEADING.match(bare) or _RULE.match(bare):
            self._state = _State.PARAGRAPH
            self._append(line)
            self._close()
            return
        elif closing := _MATH.get(bare[:2]):
            is_open = closing not in bare[2:]
            self._state = _State.MATH if is_open else _State.PARAGRAPH
            self._closing = closing
            if bare.find(closing, 2) == len(bare) - 2:
                self._append(line)
                self._close()
                return
        elif bare.startswith(">"):
            self._state = _State.QUOTE
        elif marker := _MARKER.match(bare):
            self._state = _State.LIST
            self._mark = marker["end"] or marker["bullet"]
            self._list_indent = indent
            self._first = int(marker["number"] or 0)
            self._items = 0
        else:
            self._state = _State.PARAGRAPH
        self._append(line)

    def _append(self, line: str) -> None:
        weight = len(line) + LINE_WEIGHT
        if self._size + weight > HARD_LIMIT and self._state is not _State.OVERFLOW:
            self._emit()
            self._state = _State.OVERFLOW
        elif self._state is _State.PARAGRAPH and not self._table and self._lines:
            self._find_table(line)
        elif self._state is _State.LIST and self._is_sibling(line):
            self._items += 1
        self._lines.append(line)
        self._size += weight
        self._after_blank = False
        if self._state is _State.OVERFLOW and self._size >= SOFT_LIMIT:
            self._emit()
        elif (
            self._state is _State.MATH
            and len(self._lines) > 1
            and line.strip(" \t\n").endswith(self._closing)
        ):
            self._close()

    def _find_table(self, line: str) -> None:
        head, bare = self._lines[-1], line.strip(" \t\n")
        if (
            len(head) + len(line) < SOFT_LIMIT // 8
            and ("|" in head or "|" in bare)
            and _TABLE_RULE.match(bare)
            and _columns(head) == _columns(line)
        ):
            self._table = head + line

    def _begins_block(self, line: str) -> bool:
        """Whether this line certainly begins another block than the one it follows."""
        indent, bare = _indent(line), line.strip(" \t\n")
        in_list = self._state in (_State.LIST, _State.OVERFLOW)
        if self._state is _State.MATH or indent > (0 if in_list else 3):
            return self._state is _State.OVERFLOW and self._is_sibling(line)
        if self._state is _State.INDENTED:
            return True
        if _HEADING.match(bare) or self._opens_fence(bare) or bare in _MATH:
            return True
        if _RULE.match(bare):  # but under a paragraph, `---` makes a heading of it
            return self._state is not _State.PARAGRAPH or bare.strip("-") != ""
        if marker := _MARKER.match(bare):
            if self._state is _State.PARAGRAPH:
                return bool(marker["text"]) and marker["number"] in (None, "1")
            return self._state is not _State.LIST or not self._is_sibling(line)
        if bare.startswith(">"):
            return self._state is not _State.QUOTE
        return in_list and self._after_blank

    def _divide(self, line: str) -> bool:
        """Go on with the same block in a new segment, if this line is a place for it."""
        indent, number, table = _indent(line), None, self._table
        if self._state is _State.LIST:
            if not self._is_sibling(line):
                return False
            number = self._first + self._items
        elif self._state is _State.QUOTE:
            if indent > 3 or not line.lstrip(" ").startswith(">"):
                return False
        elif self._state is _State.PARAGRAPH:
            if indent > 3:
                return False
        elif self._state is not _State.INDENTED:
            return False
        self._close()
        if table:  # the rows go on under a head of their own
            self._state, self._table = _State.PARAGRAPH, table
            self._lines, self._size = [table], len(table)
            self._append(line)
            return True
        self._begin(line)
        if number is not None:
            self._first = self._number = number
        return True

    def _is_sibling(self, line: str) -> bool:
        """Whether this is an item of the open list itself, not of a list inside it."""
        marker = _MARKER.match(line.strip(" \t\n"))
        return (
            marker is not None
            and (marker["end"] or marker["bullet"]) == self._mark
            and _indent(line) <= self._list_indent
        )

    @staticmethod
    def _opens_fence(bare: str) -> re.Match[str] | None:
        fence = _FENCE.match(bare)
        if fence and fence["mark"][0] == "`" and "`" in fence["info"]:
            return None  # inline code
        return fence

    # Segments

    def _segment(self, half: str = "") -> Segment:
        text = "".join(self._lines) + half
        if self._state is _State.FENCE:
            return Segment(Kind.CODE, text, self._info, self._is_part)
        kind = Kind.PLAIN if self._state is _State.OVERFLOW else Kind.MARKDOWN
        return Segment(kind, text, number=self._number)

    def _emit(self) -> None:
        if self._lines:
            self._final.append(self._segment())
        self._lines, self._size = [], 0

    def _close(self) -> None:
        if self._state is _State.FENCE and not self._is_part:
            self._final.append(self._segment())  # even an empty fence is a block
            self._lines = []
        self._emit()
        self._clear()

    def _clear(self) -> None:
        self._state = _State.EMPTY
        self._lines, self._size = [], 0
        self._after_blank = False
        self._table = ""  # the head and the rule of the table that the paragraph turned out to be
        self._closing = ""
        self._fence = self._info = ""
        self._fence_indent = 0
        self._is_part = False
        self._mark = ""
        self._list_indent = self._first = self._items = 0
        self._number = None

    def _take_final(self) -> list[Segment]:
        final, self._final = self._final, []
        return final
