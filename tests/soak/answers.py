"""What the provider answers in the soak: a question names its kind, and the seed does the rest.

    soak reasoning ada.1-17        prompt of the 17th question of Ada's first tab

So whoever knows the seed and the question knows every byte that the provider wrote, and what a run
made of it can be compared with that, whichever process asked and however often.
"""

import re
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Recorded,
    Step,
    close,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    openai_usage,
    reset,
    send,
    wait,
)

QUESTION = re.compile(r"soak (\w+) \S+")
# Kind: how often it comes, compared with the others.
KINDS = {
    "whole": 6,
    "markdown": 3,
    "reasoning": 3,
    "long": 2,
    "at_once": 2,
    "length": 2,  # ends at max tokens, and can be continued
    "tools": 1,
    "broken": 3,
    "hanging": 3,  # after some text
    "silent": 2,
    "refused": 2,
}
WHOLE = {"whole", "markdown", "reasoning", "long", "at_once", "length", "tools"}
SCRAPS = ["Zürich", "日本", "🎉", "data:", "id: 1:7", "**bold**", "e\u0301", "\u2028", "\n", "\n\n"]
MARKDOWN = """## Look

```python
for wörd in 'データ':
    print(f"{wörd}\\r\\n")  # 🎉
```

1. one
2. *two*

| a | b |
|---|---|
| 1 | `2` |

"""


@dataclass(frozen=True)
class Answer:
    """What the provider writes. `text` is all the text in it; `is_whole` says that its end comes
    too, so that a run of which nobody was in the way is done."""

    steps: list[Step]
    text: str
    is_whole: bool


def answer_to(seed: int, question: str) -> Answer:
    """The answer to a question of the soak, always the same."""
    found = QUESTION.fullmatch(question)
    assert found, question
    kind, chance = found[1], Random(f"{seed} {question}")
    pieces = _pieces(kind, chance)
    return Answer(_steps(kind, pieces, chance), "".join(pieces), kind in WHOLE)


def _pieces(kind: str, chance: Random) -> list[str]:
    """Each tells its place, so that none can be lost or swapped unseen."""
    match kind:
        case "refused" | "silent":
            return []
        case "markdown":
            text = MARKDOWN * chance.randint(1, 4)
            return [text[at : at + 7] for at in range(0, len(text), 7)]
        case "long":
            return [f"{number} {'word ' * 20}\n" for number in range(chance.randint(200, 800))]
        case "broken" | "hanging":
            count = chance.choice([0, 1, 5, 40])
        case _:
            count = chance.randint(5, 100)
    return [f"{chance.choice(SCRAPS)}{number} " for number in range(count)]


def _steps(kind: str, pieces: list[str], chance: Random) -> list[Step]:
    pause = chance.uniform(0, 0.05)
    begun = [head(), *(step for text in pieces for step in (send(openai_chunk(text)), wait(pause)))]
    match kind:
        case "refused":
            return json_answer({"error": {"message": "no"}}, chance.choice([400, 401, 429, 503]))
        case "silent":
            return chance.choice([[hang()], [head(), hang()]])
        case "hanging":
            return [*begun, hang()]
        case "broken":
            return [*begun, chance.choice([reset(), close()])]
        case "tools":
            call = openai_tool_call("search", '{"日本":', "[1,", '"\\n"', "]}")
            finish = send(openai_chunk(finish="tool_calls"))
            return [*begun, *call, finish, send(openai_usage()), send(OPENAI_DONE)]
        case "reasoning":
            thoughts = [f"thought {number} " for number in range(chance.randint(1, 40))]
            return openai_answer(*pieces, pause=pause, reasoning=thoughts)
        case "length":
            return openai_answer(*pieces, pause=pause, finish="length")
        case "long":
            return openai_answer(*pieces, pause=pause / 10)
        case "at_once":
            return openai_answer(*pieces)
        case _:
            return openai_answer(*pieces, pause=pause)


class Answers(Provider):
    """The provider double, which answers what it is asked by the rules above."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.asked: Counter[str] = Counter()  # requests by question

    def __enter__(self) -> Self:
        self.start()
        return self

    def _script(self, request: Recorded) -> list[Step]:
        question = _question(request.json["messages"])
        self.asked[question] += 1
        return answer_to(self.seed, question).steps


def _question(messages: list[dict[str, Any]]) -> str:
    """The last one; to have an answer continued, more is said after it."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return next(text for text in reversed(asked) if QUESTION.fullmatch(text))
