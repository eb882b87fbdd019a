"""Estimates of token counts, for before an answer and for providers that do not count.

No tokenizer is exact for every model; these are marked as estimates wherever they are shown.
Measured against common tokenizers: about four characters a token in English and code, about one
in Chinese, Japanese and Korean, between them in other scripts.
"""

import re
from collections.abc import Iterable
from typing import Final

# Role and separators around each message.
MESSAGE_TOKENS: Final = 4

_NARROW_PER_TOKEN: Final = 4
_MIDDLE_PER_TOKEN: Final = 2
# CJK and its signs, kana, hangul, full-width forms, and all beyond the basic plane (emoji too).
_WIDE: Final = re.compile(
    "[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    "\U00010000-\U0010ffff]+"
)
# Other scripts: Cyrillic, Greek, Arabic, Devanagari and so on (without Hangul's letters).
_MIDDLE: Final = re.compile("[\u0370-\u10ff\u1200-\u1fff]+")


class TokenCounter:
    """The estimate for a text that arrives in pieces; each piece costs its own length, no more.

    However a text is cut, its pieces give the count of the whole.
    """

    def __init__(self) -> None:
        self._narrow = self._middle = self._wide = 0

    def add(self, text: str) -> int:
        """Count `text` as well; the tokens so far."""
        narrow = len(text)
        if not text.isascii():
            wide = sum(map(len, _WIDE.findall(text)))
            middle = sum(map(len, _MIDDLE.findall(text)))
            self._wide += wide
            self._middle += middle
            narrow -= wide + middle
        self._narrow += narrow
        return self.tokens

    @property
    def tokens(self) -> int:
        """The tokens so far: at least 1 once there was any text."""
        return (
            self._wide
            + -(-self._middle // _MIDDLE_PER_TOKEN)
            + -(-self._narrow // _NARROW_PER_TOKEN)
        )


def estimate(text: str) -> int:
    """About how many tokens `text` is: 0 for "", at least 1 for anything else."""
    return TokenCounter().add(text)


def estimate_messages(contents: Iterable[str]) -> int:
    """About how many tokens these messages are, with what is around each of them."""
    return sum(estimate(content) + MESSAGE_TOKENS for content in contents)
