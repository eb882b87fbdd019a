"""What the demo says: prose for `demo.py`, the same for the same prompt."""

# ruff: noqa: E501 - the lines of an answer are as long as what they show

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

_COMMANDS: Final = """\
| Command | What you will see |
| --- | --- |
| `/demo help` | this list |
| `/demo markdown` | a tour of everything that is rendered |
| `/demo reasoning` | thinking before the answer |
| `/demo tools` | two tool calls, in pieces |
| `/demo long` | about 3,000 words |
| `/demo fast` | an answer without pauses |
| `/demo slow` | a long wait, then a slow answer |
| `/demo length` | an answer cut by its token limit |
| `/demo filter` | an answer ended by a content filter |
| `/demo echo TEXT` | exactly TEXT |
| `/demo error CODE` | an error before the first chunk |
| `/demo error CODE after N` | the same error after N chunks |
| `/demo cut` | an answer that breaks off |
| `/demo silent` | nothing, until the time limit |
"""

HELP: Final = f"""\
## What the demo can do

Anything else gets an ordinary answer. These commands show one thing each:

{_COMMANDS}
Codes for `/demo error`: `RATE_LIMIT_EXCEEDED`, `PROVIDER_OVERLOADED`, `PROVIDER_OFFLINE`, \
`TIMEOUT`, `API_KEY_INVALID`, `QUOTA_EXCEEDED`, `MODEL_NOT_FOUND`, `CONTEXT_LENGTH_EXCEEDED`, \
`CONTENT_FILTERED`, `INVALID_REQUEST`, `STREAM_INTERRUPTED`, `PROVIDER_ERROR`.
"""

REASONING: Final = """\
The question is how a reader should learn that a model thinks before it answers. \
I could describe it, but it is better to show it.

First, what has to be kept apart: these sentences are not the answer. They may be long, they may \
wander, and nobody has to read them.

Second, how long it took. A reader who waits wants to see that something happens, and afterwards \
wants it out of the way.

So: fold the thinking, say its duration, and let the answer stand alone. That settles it.
"""

AFTER_REASONING: Final = """\
Before this answer came some **reasoning**. It is folded above, with the time it took, and is \
stored apart: copying this message copies only what you read here.

- Stop during the reasoning, and your prompt goes back into the input box.
- Open the fold while it streams to follow it live.
"""

BEFORE_TOOLS: Final = "I would look this up with two tools. Their arguments arrive in pieces:\n"
TOOLS: Final[Sequence[tuple[str, str, str]]] = (
    (
        "call_demo_1",
        "get_weather",
        '{"city":"Zürich","unit":"celsius","days":[1,2,3]}',
    ),
    ("call_demo_2", "search_documents", '{"query":"how to read a barometer","limit":5}'),
)

BEFORE_FILTER: Final = (
    "This answer starts like any other, and then the provider's filter decides that it has heard"
    " enough. What was written until then stays, and the reason is shown with it.\n"
)
BEFORE_CUT: Final = (
    "The connection to the provider will break in the middle of this sentence, and since nothing"
    " said that the answer is complete, it must not be taken for"
)
AFTER_CUT: Final = " one that is. What you read now came after **Continue**, in the same message.\n"
AFTER_OTHERS: Final = (
    " … and here the demo goes on with what another model began. It has nothing to add.\n"
)

_ESCAPED: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&])")


def unknown(name: str) -> str:
    return f"There is no command {_quoted('/demo ' + name)}. There are these:\n\n{_COMMANDS}"


def unknown_code(code: str, codes: Sequence[str]) -> str:
    said = f"{_quoted(code)} is none of them. " if code else ""
    listed = "\n".join(f"- `/demo error {each}`" for each in codes)
    return (
        f"Say which error: `/demo error CODE`, or `/demo error CODE after 20`. {said}"
        f"The codes:\n\n{listed}\n"
    )


def ordinary(prompt: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """An answer in Markdown: one of a few, chosen by the prompt, which it takes up."""
    # Not hash(): it differs from one process to the next.
    number = zlib.crc32(prompt.encode("utf-8", "replace"))
    subject = _SUBJECTS[number % len(_SUBJECTS)]
    system = sum(1 for m in messages if m.get("role") == "system")
    earlier = max(len(messages) - system - 1, 0)
    return f"""\
## {subject["title"]}

You wrote {_quoted(prompt)}. I am the **built-in demo**: no model, no network, no cost, but every \
word takes the same path to you as a real provider's.

{subject["body"]}
### What came with your prompt

| Part of the request | How much |
| --- | ---: |
| Words in the prompt | {len(prompt.split()):,} |
| Earlier messages | {earlier} |
| System instructions | {"yes" if system else "none"} |

The *Request Inspector* shows the same, exactly as it was sent.

### What to try next

- [x] Send a message
- [ ] Stop an answer in the middle, and reload the page while one is coming
- [ ] `{_TRIES[number // 7 % len(_TRIES)]}`
- [ ] `/demo help` for all the rest

> {subject["quote"]}

When you are ready for a real model, [Ollama](https://ollama.com/) runs one on your own machine.
"""


def long(words: int) -> str:
    """About so many words, in numbered sections."""
    parts: list[str] = ["## A long answer\n"]
    total, section = 3, 0
    while total < words:
        section += 1
        paragraphs = [_PARAGRAPHS[(section + step) % len(_PARAGRAPHS)] for step in range(3)]
        parts += [f"### {section}. {_SECTIONS[section % len(_SECTIONS)]}\n", *paragraphs]
        total += sum(len(paragraph.split()) for paragraph in paragraphs) + 3
    return "\n".join(parts)


def _quoted(prompt: str) -> str:
    """The beginning of what someone typed, as text that is nothing but text in Markdown."""
    line = " ".join("".join(c if c.isprintable() else " " for c in prompt[:400]).split())
    line = line if len(line) <= 80 else line[:79].rstrip() + "…"
    escaped = _ESCAPED.sub(r"\\\1", line)
    return f"“{escaped}”" if line else "nothing at all"


_TRIES: Final = (
    "/demo reasoning",
    "/demo markdown",
    "/demo error RATE_LIMIT_EXCEEDED",
    "/demo tools",
    "/demo long",
    "/demo error STREAM_INTERRUPTED after 25",
)

_SUBJECTS: Final[Sequence[Mapping[str, str]]] = (
    {
        "title": "How an answer reaches you",
        "body": """\
A model does not write an answer and then send it. It writes a piece, sends it, and goes on:

1. the provider sends a few characters,
2. the server gives them a number and passes them on,
3. your browser shows them, and asks again from the last number if the line breaks.

The numbers are what makes a reload harmless. In Python, reading such a stream comes down to this:

```python
def answer(events):
    \"\"\"The text of an answer, from its events in order.\"\"\"
    return "".join(e["content"] for e in events if e["type"] == "chunk")
```
""",
        "quote": "Simplicity is prerequisite for reliability. (Edsger W. Dijkstra)",
    },
    {
        "title": "A short note on tea",
        "body": """\
Good tea needs little: fresh water, the right temperature, and somebody who pays attention.

- **Green** tea likes about 75 °C and two minutes.
- **Black** tea takes boiling water and four.
- **Oolong** lies between, and forgives most.

If you would rather leave the attention to a machine:

```javascript
const brew = async (kind, { minutes }) => {
  console.log(`Brewing ${kind} tea`);
  await new Promise((done) => setTimeout(done, minutes * 60_000));
  return "ready";
};
```
""",
        "quote": "You can never get a cup of tea large enough or a book long enough. (C. S. Lewis)",
    },
    {
        "title": "Counting things in a shell",
        "body": """\
Many questions about a pile of text are answered by counting. Three tools are enough:

- `sort` brings equal lines together,
- `uniq -c` counts them,
- `head` keeps what matters.

So the ten most frequent words of a file are:

```bash
tr -cs '[:alpha:]' '\\n' < book.txt \\
  | tr '[:upper:]' '[:lower:]' \\
  | sort | uniq -c | sort -rn | head
```

Each part does **one** thing, and none knows of the others.
""",
        "quote": "Make each program do one thing well. (Doug McIlroy)",
    },
    {
        "title": "Why maps lie, and should",
        "body": """\
A globe cannot be laid flat without tearing or stretching something. Every map chooses what to keep:

- **angles**, so that a compass course is a straight line (Mercator),
- **areas**, so that Greenland is no larger than it is (Mollweide),
- **distances** from one point, so that you know how far the post has to fly.

How much Mercator stretches at a latitude is one line:

```python
from math import cos, radians

stretch = lambda latitude: 1 / cos(radians(latitude))  # 60 degrees: twice as long
```
""",
        "quote": "The map is not the territory. (Alfred Korzybski)",
    },
)

_SECTIONS: Final = (
    "Where it begins",
    "What the river carries",
    "On keeping records",
    "The weight of small things",
    "A view from the bridge",
    "What was left out",
)
_PARAGRAPHS: Final = (
    "Every long text begins with the hope that someone will read it to its end, and most are"
    " wrong about that. This one has a better reason to be long: it is here so that you can"
    " scroll away from it, come back, stop it half way, or reload the page and find that it has"
    " gone on without you.\n",
    "A river does not hurry, and it does not wait. What falls into it upstream arrives downstream"
    " in the same order, sooner or later, and nobody at the mouth has to ask the spring what it"
    " meant. A stream of text is held to the same standard: nothing lost, nothing twice, nothing"
    " out of order.\n",
    "The keeper of the harbour wrote down every ship: its name, its hour, what it carried and"
    " what it paid. Nobody read the book for years. Then a storm took the pier, and the book was"
    " the only thing in town that knew what had been there. Records are dull until the day they"
    " are not.\n",
    "Weigh a feather and the scale hardly moves. Weigh ten thousand and you need both hands. The"
    " cost of a single piece of an answer is like that: not worth a thought, unless it grows a"
    " little with every piece that came before. Then the last pieces are heavier than all the"
    " rest together.\n",
    "From the bridge you see both banks. On one side somebody is speaking slowly, choosing words;"
    " on the other somebody listens, sometimes with one ear. The bridge belongs to neither. It"
    " only has to hold, and to know when one of the two has gone home.\n",
)

TOUR: Final = r"""# A tour of Markdown

Text can be *emphasised*, **strong**, ***both***, ~~struck~~ or `code`, and a line\
can be broken on purpose. Here is a [link with a title](https://commonmark.org "CommonMark"),
and a bare one: <https://example.org/a_b?c=d&e=f>.

## Lists

1. First, with a list inside:
   - a point
   - another, with a list inside
     1. deep
     2. deeper
2. Second, with a paragraph below.

   It belongs to the second item, and so does this code:

   ```python
   def square(x: float) -> float:
       return x * x
   ```
3. Third.

- [x] done
- [ ] to do
  - [ ] with a part of its own

## Quotes

> A quote can hold **other things**:
>
> > a quote of its own,
>
> - and a list.

## Code

```typescript
type Chunk = { type: "chunk"; content: string; tokens: number };
const text = (chunks: Chunk[]): string => chunks.map((chunk) => chunk.content).join("");
```

A line that is too long for any screen scrolls inside its own block:

```text
0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789
```

```sql
SELECT model, count(*) AS runs, sum(cost_usd) AS cost_usd
FROM usage_log WHERE started_at >= '2026-01-01' GROUP BY model ORDER BY cost_usd DESC;
```

```diff
- return cached_value
+ return fresh_value
```

    Four spaces make code too.

A fence that holds a fence:

````markdown
```json
{"nested": true}
```
````

## Tables

| Left | Centre | Right |
| :--- | :---: | ---: |
| `a|b` is two cells | **bold** | 1.00 |
| short | *italic* | 1,234.50 |

A wide one:

| Model | Context | Input | Cached input | Output | First chunk | Per second | Released | Licence | Notes |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- |
| small-instruct-2026-04 | 32,768 | $0.10 | $0.02 | $0.40 | 210 ms | 180 | April 2026 | Apache-2.0 | fits a laptop |
| large-reasoning-2026-09 | 1,048,576 | $2.50 | $0.25 | $10.00 | 1,900 ms | 65 | September 2026 | proprietary | thinks first |

## Mathematics

Inline: $e^{i\pi} + 1 = 0$, and the cost of a run is \(t_{in} p_{in} + t_{out} p_{out}\).

$$
\sum_{k=1}^{n} k = \frac{n(n+1)}{2}
$$

Two prices, $5 and $10, are no formula.

## Languages

**太字**のテキストと、**「引用」**の後に続く文。**강조**는 이렇게, **重点**是这样。
Größe, naïve, Ελληνικά, кириллица, العربية, עברית, हिन्दी.

## What stays text

<b>Raw HTML</b> is shown and never obeyed: <script>alert("no")</script> <img src=x onerror=alert(1)>

2 < 3 && 5 > 4, AT&T, &lt;escaped&gt;, snake_case_name, 2*3*4, C:\path\to\file.

---

![A picture from elsewhere](https://example.org/picture.png) becomes a link, since pages load
nothing from other hosts.

Line one with a footnote.[^1]

[^1]: Footnotes may or may not be rendered.

The end.
"""
