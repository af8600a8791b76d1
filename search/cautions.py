"""What a user should know about an answer before they believe it."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from cbmir.schema import Vectors
from cbmir.units import counted

if TYPE_CHECKING:
    from cbmir.encoders import Encoder
    from cbmir.search.answer import Answer

NEAR_COPY = 0.99
"""Cosine from which two images may be one: what ``cbmir evaluate audit`` calls a near copy unless told otherwise."""

NO_PATIENT = "the query's patient is not known, so images of that patient may be among the hits"
MAYBE_SAME = "possibly the same patient"

_NEGATIONS = re.compile(r"\b(no|not|without|absent|absence|free of|negative for|ruled out|kein\w*|ohne|sans)\b", re.I)


def negated(text: str) -> str | None:
    """A caution for a text that denies something, None for others."""
    found = _NEGATIONS.search(text)
    if found is None:
        return None
    return (
        f"encoders hardly understand {found.group()!r}: {text!r} finds what it denies as well; say what is to be seen, "
        "and give the rest as a text to be unlike (--not-text)"
    )


def cut_off(encoder: "Encoder", text: str) -> str | None:
    """A caution for a text that is longer than what the encoder reads, None for others.

    What it reads is found by asking it: beyond that, a further word changes nothing. So this holds for any tokenizer.

    Raises:
        EncoderError: the encoder has no text tower.
    """
    words = text.split()
    whole, longer = encoder.embed_text([text, f"{text} {words[0]} x"])
    if not _same(whole, longer):
        return None
    least, most = 1, len(words)  # the whole is read with `most` words, not with fewer than `least`
    while least < most:
        middle = (least + most) // 2
        (part,) = encoder.embed_text([" ".join(words[:middle])])
        least, most = (least, middle) if _same(part, whole) else (middle + 1, most)
    return f"the encoder reads the first {least} of {counted(len(words), 'word')}, up to {words[least - 1]!r}"


def cautions(answers: "Iterable[Answer]") -> list[str]:
    """The cautions of several answers, each once with the number of queries that it is about."""
    answers = list(answers)
    counts = Counter(text for answer in answers for text in dict.fromkeys(answer.cautions))
    several = len(answers) > 1
    return [
        f"{text} ({count:,} of {counted(len(answers), 'query')})" if several else text for text, count in counts.items()
    ]


def _same(one: Vectors, other: Vectors) -> bool:
    return bool(np.allclose(one, other, atol=1e-5))
